import pMap from 'p-map';
import type { Stage } from '@holdfast/proto/holdfast/v1/event.ts';
import { chunkBytesFor, type Sample } from '../digests/chunks.ts';
import { contentKey } from '../digests/chunkDigest.ts';
import { UnreadableImage } from '../qemu/extents.ts';
import { KEY_SECRET_ID, layoutName } from '../qemu/layout.ts';
import { startStorageDaemon } from '../qemu/storageDaemon.ts';
import { partialFolder } from '../repository/layout.ts';
import type { WatchedRepository } from '../repository/liveness.ts';
import { IMAGES_AT_ONCE, type CheckDisk } from './check.ts';
import type { JobContext, StageRun } from './context.ts';
import { addLimit } from './copy.ts';
import { openImage } from './openImage.ts';
import type { Prepared } from './prepare.ts';
import { readDisks, type ChunkDigests, type ReadableDisk } from './readDisks.ts';

/** An image whose content can be read. */
export interface ReadableImage extends CheckDisk {
  /** As the guest sees it. */
  readonly virtualSizeBytes: number;
  /** Of its digests; left out: as for new ones. */
  readonly chunkBytes?: number;
}

/** The images that a backup has just written, still under their partial names. */
export function imagesOf(
  prepared: Prepared,
  storedBytes: ReadonlyMap<string, number>,
): readonly ReadableImage[] {
  return prepared.disks.map(({ disk, file, virtualSizeBytes }) => ({
    target: disk.target,
    path: prepared.repository.pathOf(`${partialFolder(prepared.folder)}/${file}`),
    layout: layoutName(prepared.layout),
    secret: prepared.key,
    storedBytes: storedBytes.get(disk.target) ?? 0,
    virtualSizeBytes,
  }));
}

/**
 * Opens finished images in a daemon of their own, decrypts and decompresses them, and digests what a guest would see.
 *
 * @throws UnreadableImage, HoldfastError QEMU_FAILED
 */
export async function* readImages(
  context: JobContext,
  repository: WatchedRepository,
  images: readonly ReadableImage[],
  { stage, sample }: { readonly stage: Stage; readonly sample: Sample },
): StageRun<ReadonlyMap<string, ChunkDigests>> {
  const { control, runtimeDirectory } = context;
  const stopped = await context.undo.promise({ kind: 'stop-storage-daemon', directory: runtimeDirectory });
  const daemon = await startStorageDaemon(runtimeDirectory, context.logger, control.signal, {
    isExcused: () => repository.stalledSince !== undefined,
  });
  const [secret] = images.map((image) => image.secret);
  if (secret !== undefined) await daemon.addSecret(KEY_SECRET_ID, secret);
  await addLimit(daemon);
  const signal = AbortSignal.any([control.signal, repository.givenUp]);
  const open = async (image: ReadableImage): Promise<ReadableDisk> => {
    const { node, extents, virtualSizeBytes } = await openImage(context, daemon, image, signal);
    const bytes = image.virtualSizeBytes;
    if (virtualSizeBytes !== bytes) {
      throw new UnreadableImage(
        `disk ${image.target} has ${virtualSizeBytes} bytes in it, not ${bytes}.`,
        image.target,
      );
    }
    return {
      target: image.target,
      node,
      bytes,
      chunkBytes: image.chunkBytes ?? chunkBytesFor(bytes),
      extents,
    };
  };
  const disks = await repository.whileAnswering(pMap(images, open, { concurrency: IMAGES_AT_ONCE }));
  const digests = yield* readDisks(context, daemon, disks, {
    stage,
    sample,
    key: secret && contentKey(secret),
    watch: () => {
      repository.requireAnswer();
    },
  });
  await daemon.quit();
  await stopped.forget();
  return digests;
}
