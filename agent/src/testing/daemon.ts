import { writeFile } from 'node:fs/promises';
import { MIB } from '@holdfast/common/bytes.ts';
import { silentLogger } from '@holdfast/common/logger.ts';
import { Secret } from '@holdfast/common/secret.ts';
import { KEY_SECRET_ID, targetNodes, type ImageLayout } from '../qemu/layout.ts';
import { startStorageDaemon, stopStorageDaemon, type StorageDaemon } from '../qemu/storageDaemon.ts';
import { closeTarget, openTarget, type Target } from '../stages/openTarget.ts';
import { output } from './mount.ts';

export const KEY = new Secret(`AGE-SECRET-KEY-1${'Q'.repeat(58)}`);
export const OTHER_KEY = new Secret(`AGE-SECRET-KEY-1${'P'.repeat(58)}`);
export const never = new AbortController().signal;

/** A real qemu-storage-daemon, gone at the end of the scope. */
export async function realDaemon(
  directory: string,
): Promise<AsyncDisposable & { readonly daemon: StorageDaemon }> {
  const daemon = await startStorageDaemon(directory, silentLogger, never);
  return {
    daemon,
    [Symbol.asyncDispose]: async () => {
      daemon.qmp.close();
      await stopStorageDaemon(directory);
    },
  };
}

/** Makes an image of 8 MiB at `path`, laid out as asked, that holds the bytes of the raw file `source`. */
export async function imageOf(
  directory: string,
  path: string,
  layout: ImageLayout,
  source: string,
): Promise<void> {
  await using real = await realDaemon(directory);
  const { daemon } = real;
  await writeFile(path, '', { flag: 'wx' });
  if (layout.encrypted) await daemon.addSecret(KEY_SECRET_ID, KEY);
  const target: Target = { nodes: targetNodes('vda'), layout, virtualSizeBytes: 8 * MIB, path };
  await openTarget(daemon, target, never);
  const file = { driver: 'file', filename: source };
  await daemon.qmp.execute('blockdev-add', { driver: 'raw', 'node-name': 'source', 'read-only': true, file });
  await daemon.qmp.execute('blockdev-backup', {
    'job-id': 'copy',
    device: 'source',
    target: target.nodes.image,
    sync: 'full',
    compress: layout.compression !== '',
    'auto-dismiss': false,
  });
  for (;;) {
    const [job] = await daemon.jobs();
    if (job?.error !== undefined) throw new Error(job.error);
    if (job?.status === 'concluded') break;
  }
  await daemon.qmp.execute('job-dismiss', { id: 'copy' });
  await closeTarget(daemon, target);
}

/** A raw file of 8 MiB: text, then a hole, then random bytes. */
export async function rawSource(path: string): Promise<void> {
  await output('sh', [
    '-c',
    'yes "a line of text" | head -c 3145728 > "$1"; truncate -s 6M "$1"; head -c 2097152 /dev/urandom >> "$1"',
    'sh',
    path,
  ]);
}
