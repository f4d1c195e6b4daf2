import { Secret } from '@holdfast/common/secret.ts';
import type { JobContext } from './context.ts';
import { LIMIT_GROUP } from './copy.ts';
import { mapImage, UnreadableImage, type DiskMap, type SourceSecrets } from '../qemu/extents.ts';
import type { ImageToCheck } from '../qemu/imageCheck.ts';
import { KEY_SECRET_ID, readOptions } from '../qemu/layout.ts';
import { QmpError } from '../qemu/qmp.ts';
import type { StorageDaemon } from '../qemu/storageDaemon.ts';

/** An image of a backup, open for reading under the limit. */
export interface OpenImage extends DiskMap {
  readonly node: string;
}

/**
 * Opens an image of a backup in a daemon that has its key and the limit.
 *
 * @throws UnreadableImage, HoldfastError QEMU_FAILED when the daemon is gone
 */
export async function openImage(
  context: Pick<JobContext, 'runtimeDirectory'>,
  daemon: StorageDaemon,
  { target, layout, path, secret }: ImageToCheck,
  signal: AbortSignal,
): Promise<OpenImage> {
  const secrets: SourceSecrets =
    secret === undefined
      ? new Map()
      : new Map([['source-key', new Secret(Buffer.from(secret.reveal()).toString('base64'))]]);
  const encrypted = secret !== undefined;
  const node = `source-${target}`;
  const options = {
    driver: 'throttle',
    'throttle-group': LIMIT_GROUP,
    'node-name': node,
    'read-only': true,
    file: { ...readOptions(layout, encrypted, path, KEY_SECRET_ID), 'read-only': true },
  };
  const [map] = await Promise.all([
    mapImage(readOptions(layout, encrypted, path, 'source-key'), secrets, context.runtimeDirectory, signal),
    daemon.qmp.execute('blockdev-add', options).catch((error: unknown) => {
      throw error instanceof QmpError ? new UnreadableImage(error.description) : error;
    }),
  ]);
  return { ...map, node };
}
