import { HoldfastError } from '@holdfast/common/errors.ts';
import { beginBackup } from './backupJob.ts';
import { child, element, parseXml, printXml } from './xml.ts';
import { sentence, type Virsh } from './virsh.ts';

export interface PushBackup {
  readonly uuid: string;
  /** The files that QEMU shall write to, raw and of the disks' exact sizes, by target name. */
  readonly files: ReadonlyMap<string, string>;
  /** The domain's other disks, by target name. */
  readonly excluded: readonly string[];
}

/** A disk's block job as libvirt reports it. */
export interface PushJob {
  /** Bytes a second; 0 is unlimited. */
  readonly limit: number;
  /** Position and end in the disk's address space, holes included. */
  readonly processedBytes: number;
  readonly totalBytes: number;
}

/** How a backup job that runs no more came out. */
export interface PushOutcome {
  /** libvirt's word: Completed, Failed, Cancelled, or None when it does not know of any. */
  readonly result: string;
  /** libvirt's sentence about a failure, often empty. */
  readonly message: string;
}

/** The smallest limit: libvirt takes 0 for unlimited. */
export const STANDSTILL_BYTES = 1;

/**
 * Starts a push-mode backup: from this instant on QEMU writes all disks, as they are now, to the files.
 *
 * @param file where the XML is written for virsh
 * @throws HoldfastError DOMAIN_BUSY, LIBVIRT_FAILED
 */
export async function beginPushBackup(
  virsh: Virsh,
  backup: PushBackup,
  file: string,
  signal: AbortSignal,
): Promise<void> {
  await beginBackup(virsh, backup.uuid, backupXml(backup), file, ['--reuse-external'], signal);
}

/**
 * A disk's block job; undefined when it has ended.
 *
 * @throws HoldfastError LIBVIRT_FAILED when libvirt does not answer.
 */
export async function pushJob(virsh: Virsh, uuid: string, target: string): Promise<PushJob | undefined> {
  const result = await virsh.attempt(['blockjob', uuid, target, '--info', '--raw', '--bytes'], ANSWER);
  if (result.exitCode !== 0) {
    const said = sentence(result.stderr);
    if (/not running|domain not found|no domain with matching|not found|no current block job/i.test(said))
      return undefined;
    throw new HoldfastError('LIBVIRT_FAILED', `libvirt says nothing of the job of disk ${target}: ${said}`);
  }
  const field = (name: string): number =>
    Number(new RegExp(`^\\s*${name}=(\\d+)`, 'm').exec(result.stdout)?.[1]);
  if (Number.isNaN(field('end'))) return undefined;
  return { limit: field('bandwidth'), processedBytes: field('cur'), totalBytes: field('end') };
}

/**
 * Limits a disk's block job, and reads back what is in force.
 *
 * @returns bytes a second as libvirt says it now, or its complaint; undefined when the job has ended.
 */
export async function limitPushJob(
  virsh: Virsh,
  uuid: string,
  target: string,
  bytesPerSecond: number,
): Promise<{ readonly limit: number; readonly complaint: string } | undefined> {
  const { stderr } = await virsh.attempt(
    ['blockjob', uuid, target, '--bandwidth', String(bytesPerSecond), '--bytes'],
    ANSWER,
  );
  // What counts is what is in force, not what the command said.
  const job = await pushJob(virsh, uuid, target);
  return job === undefined ? undefined : { limit: job.limit, complaint: sentence(stderr) };
}

/** How the domain's latest backup job came out. */
export async function pushOutcome(virsh: Virsh, uuid: string): Promise<PushOutcome> {
  const said = await virsh.command(['domjobinfo', uuid, '--completed', '--keep-completed'], ANSWER);
  const field = (name: string): string => new RegExp(`^${name}:\\s+(\\S.*?)\\s*$`, 'm').exec(said)?.[1] ?? '';
  return { result: field('Job type'), message: field('Error message') };
}

/** libvirt answers these from memory or by one command to QEMU. Who asks all the time has a patience of its own. */
const ANSWER = { deadlineMs: 10_000, patienceMs: 0 };

function backupXml(backup: PushBackup): string {
  const root = parseXml('<domainbackup mode="push"><disks/></domainbackup>');
  const disks = child(root, 'disks');
  for (const [target, file] of backup.files) {
    const disk = element(root, 'disk', { name: target, backup: 'yes', type: 'file' });
    disk.appendChild(element(root, 'driver', { type: 'raw' }));
    disk.appendChild(element(root, 'target', { file }));
    disks?.appendChild(disk);
  }
  for (const target of backup.excluded)
    disks?.appendChild(element(root, 'disk', { name: target, backup: 'no' }));
  return printXml(root);
}
