import { readdir, readlink } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { HoldfastError } from '@holdfast/common/errors.ts';
import { qemuProcess } from './qemuProcess.ts';
import type { Virsh } from './virsh.ts';

/** Whether a path is one that only the backup in question uses. */
export type IsOurs = (path: string) => boolean;

/** A backup that is just beginning or ending looks for a moment like one that is lost. */
const MOMENT_MS = 1_000;
const POLL_MS = 50;
const END_MS = 3_000;
const ANSWER = { deadlineMs: 5_000 };

/**
 * A libvirtd that was killed while it began a backup knows afterwards that there is one, but not which: it says "backup job
 * data missing", cannot abort it, and lets no other begin, nor the domain start again once it has stopped (libvirt 9.0.0,
 * qemuBackupJobCancelBlockjobs, qemuProcessStop).
 *
 * @param domain as it is to be called in the message
 * @throws HoldfastError DOMAIN_STATE when libvirt holds such a job
 */
export async function requireNoLostBackup(virsh: Virsh, uuid: string, domain = uuid): Promise<void> {
  const deadlineMs = performance.now() + MOMENT_MS;
  while (await isLost(virsh, uuid)) {
    if (performance.now() < deadlineMs) {
      await sleep(POLL_MS);
      continue;
    }
    throw new HoldfastError(
      'DOMAIN_STATE',
      `libvirtd was killed as it began a backup of domain ${domain}, and has held the domain's job since without knowing of ` +
        'what: the guest is well, but libvirt begins no other backup of it. Shut the domain down, restart libvirtd, and start ' +
        'the domain again; docs/reliability.md has a way without that.',
      { metadata: { state: 'running' } },
    );
  }
}

async function isLost(virsh: Virsh, uuid: string): Promise<boolean> {
  const { exitCode, stderr } = await virsh.attempt(['domjobinfo', uuid], ANSWER);
  return exitCode !== 0 && /backup job data missing/i.test(stderr);
}

/** Whether a domain's QEMU let go of a backup's files within a moment. */
export async function isReleased(virsh: Virsh, uuid: string, isOurs: IsOurs): Promise<boolean> {
  const deadlineMs = performance.now() + MOMENT_MS;
  while (await isHeld(virsh, uuid, isOurs)) {
    if (performance.now() > deadlineMs) return false;
    await sleep(POLL_MS);
  }
  return true;
}

/** Asks the kernel where it can: QEMU may hang. */
async function isHeld(virsh: Virsh, uuid: string, isOurs: IsOurs): Promise<boolean> {
  const pid = await qemuProcess(uuid);
  if (pid === undefined)
    return (await isLost(virsh, uuid)) && (await nodesOf(virsh, uuid, isOurs)).length > 0;
  // It may end meanwhile.
  const files = await readdir(`/proc/${pid}/fd`).catch(() => []);
  const paths = await Promise.all(files.map((file) => readlink(`/proc/${pid}/fd/${file}`).catch(() => '')));
  return paths.some(isOurs);
}

interface Node {
  readonly 'node-name': string;
  readonly file: string;
}

/**
 * Ends in QEMU itself what a backup left there that libvirt does not know: its jobs, which would go on writing for ever, its
 * NBD server, and the files that it has open. Only when some of these are `isOurs`: libvirt runs one backup of a domain at a
 * time.
 *
 * @throws HoldfastError LIBVIRT_FAILED when QEMU does not let go
 */
export async function endInQemu(virsh: Virsh, uuid: string, isOurs: IsOurs): Promise<void> {
  const nodes = (await nodesOf(virsh, uuid, isOurs)).map((node) => node['node-name']);
  if (nodes.length === 0) return;
  await endJobs(virsh, uuid);
  const exported = await ask<readonly Node[]>(virsh, uuid, 'query-block-exports');
  // There is none when the backup was pushed.
  if (exported.every((each) => nodes.includes(each['node-name'])))
    await ask(virsh, uuid, 'nbd-server-stop').catch(() => undefined);
  // One that another stands upon can only be closed after that one.
  for (const node of [...nodes, ...nodes])
    await ask(virsh, uuid, 'blockdev-del', { 'node-name': node }).catch(() => undefined);
  if ((await nodesOf(virsh, uuid, isOurs)).length > 0) throw stuck(uuid);
}

async function endJobs(virsh: Virsh, uuid: string): Promise<void> {
  const deadlineMs = performance.now() + END_MS;
  for (;;) {
    const jobs = await ask<readonly { id: string; type: string; status: string }[]>(
      virsh,
      uuid,
      'query-jobs',
    );
    // As libvirt names those of a backup (qemuBlockJobDiskNewBackup).
    const left = jobs.filter(({ id, type }) => type === 'backup' && id.startsWith('backup-'));
    if (left.length === 0) return;
    if (performance.now() > deadlineMs) throw stuck(uuid);
    for (const { id, status } of left) {
      const ended = status === 'concluded';
      // One that ended meanwhile is dismissed next time.
      await (
        ended
          ? ask(virsh, uuid, 'job-dismiss', { id })
          : ask(virsh, uuid, 'block-job-cancel', { device: id, force: true })
      ).catch(() => undefined);
    }
    await sleep(POLL_MS);
  }
}

async function nodesOf(virsh: Virsh, uuid: string, isOurs: IsOurs): Promise<readonly Node[]> {
  const nodes = await ask<readonly Node[]>(virsh, uuid, 'query-named-block-nodes', { flat: true });
  return nodes.filter(({ file }) => isOurs(file));
}

function stuck(uuid: string): HoldfastError {
  return new HoldfastError(
    'LIBVIRT_FAILED',
    `QEMU of domain ${uuid} does not end a backup that libvirt lost.`,
  );
}

/** One command to QEMU, past libvirt. @throws HoldfastError LIBVIRT_FAILED when QEMU refuses it */
async function ask<Answer>(
  virsh: Virsh,
  uuid: string,
  execute: string,
  args: Readonly<Record<string, unknown>> = {},
): Promise<Answer> {
  const said = await virsh.command(
    ['qemu-monitor-command', uuid, JSON.stringify({ execute, arguments: args })],
    ANSWER,
  );
  const { return: answer, error } = JSON.parse(said) as { return: Answer; error?: { desc: string } };
  if (error !== undefined)
    throw new HoldfastError('LIBVIRT_FAILED', `QEMU refuses ${execute}: ${error.desc}`);
  return answer;
}
