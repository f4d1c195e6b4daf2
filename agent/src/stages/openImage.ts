import { Secret } from '@holdfast/common/secret.ts';
import type { JobContext } from './context.ts';
import { LIMIT_GROUP } from './copy.ts';
import { mapImage, UnreadableImage, type DiskMap, type SourceSecrets } from '../qemu/extents.ts';
import type { ImageToCheck } from '../qemu/imageCheck.ts';
import { KEY_SECRET_ID, readOptions } from '../qemu/layout.ts';
import { QmpError } from '../qemu/qmp.ts';
import type { StorageDaemon } from '../qemu/storageDaemon.ts';

/**
 * Opens an image of a backup for reading in a daemon that has its key and the limit.
 *
 * @param nodes by which it is then known: it is opened once for each
 * @throws UnreadableImage, HoldfastError QEMU_FAILED when the daemon is gone
 */
export async function openImage(
  context: Pick<JobContext, 'runtimeDirectory'>,
  daemon: StorageDaemon,
  { layout, path, secret }: ImageToCheck,
  nodes: readonly string[],
  signal: AbortSignal,
): Promise<DiskMap> {
  const secrets: SourceSecrets =
    secret === undefined
      ? new Map()
      : new Map([['source-key', new Secret(Buffer.from(secret.reveal()).toString('base64'))]]);
  const encrypted = secret !== undefined;
  const options = {
    driver: 'throttle',
    'throttle-group': LIMIT_GROUP,
    'read-only': true,
    file: { ...readOptions(layout, encrypted, path, KEY_SECRET_ID), 'read-only': true },
  };
  const open = async (node: string): Promise<void> => {
    await daemon.qmp.execute('blockdev-add', { ...options, 'node-name': node }).catch((error: unknown) => {
      throw error instanceof QmpError ? new UnreadableImage(error.description) : error;
    });
  };
  const [map] = await Promise.all([
    mapImage(readOptions(layout, encrypted, path, 'source-key'), secrets, context.runtimeDirectory, signal),
    ...nodes.map(open),
  ]);
  return map;
}
