import { chown, mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { HoldfastError } from '@holdfast/common/errors.ts';
import type { DomainId } from '../libvirt/domains.ts';
import { qemuProcess } from '../libvirt/qemuProcess.ts';
import type { Virsh } from '../libvirt/virsh.ts';
import { mountAt } from '../process/mounts.ts';
import { startStorageDaemon, type StorageDaemon } from '../qemu/storageDaemon.ts';
import { QmpError } from '../qemu/qmp.ts';
import type { JobContext } from '../stages/context.ts';
import type { Prepared } from '../stages/prepare.ts';
import { domainEnded } from './running.ts';
import { fuseConnection, type FuseConnection } from './fuseConnection.ts';

/** The files to which the domain's QEMU pushes its disks, and the daemon that serves them. */
export interface Exporter {
  readonly daemon: StorageDaemon;
  /** By target name. */
  readonly files: ReadonlyMap<string, string>;
  readonly connections: ReadonlyMap<string, FuseConnection>;
  /** The first write that did not reach an image, though QEMU was told that it had. */
  readonly lost: () => LostWrite | undefined;
}

export interface LostWrite {
  readonly target: string;
  /** QEMU's words, such as `No space left on device`. */
  readonly error: string;
}

/** Where a disk's export is mounted. */
export function exportFile(context: JobContext, target: string): string {
  return join(context.socketDirectory, target);
}

/**
 * Mounts a file for each disk. It stands between the guest and the repository: while a backup job runs, a write of the
 * guest waits for the old data to be pushed, and fails when that fails. So each file is a quorum of one vote among the
 * image and nothing at all (`null-co`): when the image cannot be written, QEMU is answered all the same, the loss is
 * told here, and the backup is given up without the guest's noticing. The daemon is apart from the one that writes to
 * the repository, so that that one can be killed.
 *
 * @throws HoldfastError PUSH_UNUSABLE
 */
export async function mountExports(
  context: JobContext,
  prepared: Prepared,
  directory: string,
  targetSocket: string,
): Promise<Exporter> {
  await mkdir(directory, { recursive: true, mode: 0o700 });
  const daemon = await startStorageDaemon(directory, context.logger, context.control.signal);
  let lost: LostWrite | undefined;
  daemon.qmp.on('QUORUM_REPORT_BAD', (data) => {
    const { 'node-name': node, error, type } = data as { 'node-name': string; error?: string; type: string };
    if (type !== 'read') lost ??= { target: node.replace(/^target-/, ''), error: error ?? 'unknown error' };
  });
  const files = new Map<string, string>();
  const connections = new Map<string, FuseConnection>();
  for (const { disk, virtualSizeBytes } of prepared.disks) {
    const file = exportFile(context, disk.target);
    await writeFile(file, '', { mode: 0o600 });
    await mountExport(daemon, disk.target, virtualSizeBytes, file, targetSocket);
    files.set(disk.target, file);
    const mount = await mountAt(file);
    if (mount === undefined) throw unusable(`The export of disk ${disk.target} was not mounted on ${file}.`);
    connections.set(disk.target, await fuseConnection(mount.device));
  }
  await requireVisible(context.virsh, prepared.domain, [...files.values()]);
  return { daemon, files, connections, lost: () => lost };
}

async function mountExport(
  daemon: StorageDaemon,
  target: string,
  size: number,
  file: string,
  targetSocket: string,
): Promise<void> {
  const server = { type: 'unix', path: targetSocket };
  for (const options of [
    { driver: 'nbd', server, export: target, 'node-name': `target-${target}` },
    { driver: 'null-co', size, 'node-name': `null-${target}` },
    {
      driver: 'quorum',
      children: [`target-${target}`, `null-${target}`],
      'vote-threshold': 1,
      'read-pattern': 'fifo',
      'node-name': `quorum-${target}`,
    },
  ]) {
    await daemon.qmp.execute('blockdev-add', options);
  }
  await daemon.qmp
    .execute('block-export-add', {
      type: 'fuse',
      id: `fuse-${target}`,
      'node-name': `quorum-${target}`,
      mountpoint: file,
      writable: true,
      growable: false,
      // libvirt gives the file to the user that QEMU runs as, which this makes possible.
      'allow-other': 'auto',
    })
    .catch((error: unknown) => {
      if (!(error instanceof QmpError)) throw error;
      throw unusable(
        `qemu-storage-daemon cannot mount a FUSE export on this host: ${error.description}`,
        error,
      );
    });
}

/**
 * QEMU must see the mounts and not the empty files below them. Found out beforehand, since libvirtd 9.0 ends with a
 * segmentation fault when QEMU refuses the second of several targets.
 */
async function requireVisible(virsh: Virsh, domain: DomainId, files: readonly string[]): Promise<void> {
  const { uuid } = domain;
  const pid = await qemuProcess(uuid);
  if (pid === undefined) {
    throw (
      (await domainEnded(virsh, { domain })) ??
      unusable(`The QEMU process of domain ${uuid} is not to be seen from here.`)
    );
  }
  for (const file of files) {
    const [ours, theirs] = [await mountAt(file), await mountAt(file, pid)];
    if (ours !== undefined && ours.device === theirs?.device) continue;
    throw unusable(
      `The mount on ${file} does not reach the QEMU process ${pid}. The file system of the agent's runtime directory ` +
        'must be a shared mount (mount --make-rshared /, which is what systemd does).',
    );
  }
}

/** QEMU opens the files as its own user. */
export async function makeExportDirectory(context: JobContext, prepared: Prepared): Promise<void> {
  await mkdir(context.socketDirectory, { recursive: true, mode: 0o700 });
  const owner = prepared.xml.qemuOwner;
  if (owner !== undefined && process.getuid?.() === 0)
    await chown(context.socketDirectory, owner.uid, owner.gid);
}

function unusable(message: string, cause?: unknown): HoldfastError {
  return new HoldfastError(
    'PUSH_UNUSABLE',
    `${message} Until that is changed, make scratch space and set nas.backup.transport to pull.`,
    { cause },
  );
}
