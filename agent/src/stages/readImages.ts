import pMap from 'p-map';
import type { Stage } from '@holdfast/proto/holdfast/v1/event.ts';
import { chunkBytesFor, type Sample } from '../digests/chunks.ts';
import { contentKey } from '../digests/chunkDigest.ts';
import type { DigestReader } from '../digests/digestReader.ts';
import { UnreadableImage } from '../qemu/extents.ts';
import { KEY_SECRET_ID, layoutName } from '../qemu/layout.ts';
import { startStorageDaemon, type StorageDaemon } from '../qemu/storageDaemon.ts';
import { partialFolder } from '../repository/layout.ts';
import type { WatchedRepository } from '../repository/liveness.ts';
import { IMAGES_AT_ONCE, type CheckDisk } from './check.ts';
import type { JobContext, StageRun } from './context.ts';
import { addLimit } from './copy.ts';
import { openImage } from './openImage.ts';
import type { Prepared } from './prepare.ts';
import { readDisks, startReader, type ChunkDigests, type ReadableDisk } from './readDisks.ts';

/** An image whose content can be read. */
export interface ReadableImage extends CheckDisk {
  /** As the guest sees it. */
  readonly virtualSizeBytes: number;
  /** Of its digests; left out: as for new ones. */
  readonly chunkBytes?: number;
}

export interface ReadImagesOptions {
  /** Of which the progress is told. */
  readonly stage: Stage;
  readonly sample: Sample;
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
  options: ReadImagesOptions,
): StageRun<ReadonlyMap<string, ChunkDigests>> {
  await using opening = beginOpening(context, repository, images);
  return yield* readOpened(context, repository, opening, options);
}

/**
 * The iothreads of the daemon that read: in one thread QEMU decrypts, and copies what it answers, one after the other, which
 * takes longer than all else that is done meanwhile.
 */
const READ_THREADS = ['read-0', 'read-1'];

/** Images that are being opened in a daemon of their own. Disposal ends what was not read. */
export interface Opening extends AsyncDisposable {
  /** @throws UnreadableImage, HoldfastError QEMU_FAILED */
  readonly opened: Promise<OpenedImages>;
}

interface OpenedImages {
  readonly daemon: StorageDaemon;
  readonly disks: readonly ReadableDisk[];
  /** What the content's digests are keyed with. */
  readonly key: Uint8Array | undefined;
  /** Ends the daemon. */
  readonly end: () => Promise<void>;
}

/** Begins to open finished images, and to start all that will read them. No data is read yet. */
export function beginOpening(
  context: JobContext,
  repository: WatchedRepository,
  images: readonly ReadableImage[],
): Opening {
  const readers: DigestReader[] = [];
  const over = new AbortController();
  const signal = AbortSignal.any([context.control.signal, repository.givenUp, over.signal]);
  const opened = open(context, repository, images, { readers, signal });
  // It may fail before anybody waits for it.
  opened.catch(() => undefined);
  return {
    opened,
    [Symbol.asyncDispose]: async () => {
      over.abort(new Error('the images are not needed any more'));
      await Promise.allSettled([opened]);
      await Promise.all(readers.map((reader) => reader.kill()));
    },
  };
}

async function open(
  context: JobContext,
  repository: WatchedRepository,
  images: readonly ReadableImage[],
  { readers, signal }: { readonly readers: DigestReader[]; readonly signal: AbortSignal },
): Promise<OpenedImages> {
  const { runtimeDirectory } = context;
  const stopped = await context.undo.promise({ kind: 'stop-storage-daemon', directory: runtimeDirectory });
  signal.throwIfAborted();
  const prepared = images.map((image) => ({
    image,
    reader: startReader(context, image.target, READ_THREADS.length),
  }));
  readers.push(...prepared.map(({ reader }) => reader));
  const daemon = await startStorageDaemon(runtimeDirectory, context.logger, signal, {
    isExcused: () => repository.stalledSince !== undefined,
  });
  const [secret] = images.map((image) => image.secret);
  if (secret !== undefined) await daemon.addSecret(KEY_SECRET_ID, secret);
  await addLimit(daemon);
  for (const id of READ_THREADS) await daemon.qmp.execute('object-add', { 'qom-type': 'iothread', id });
  const readable = async ({ image, reader }: (typeof prepared)[number]): Promise<ReadableDisk> => {
    const nodes = READ_THREADS.map((iothread) => ({ node: `${image.target}-${iothread}`, iothread }));
    const names = nodes.map(({ node }) => node);
    const { extents, virtualSizeBytes } = await openImage(context, daemon, image, names, signal);
    const bytes = image.virtualSizeBytes;
    if (virtualSizeBytes !== bytes) {
      throw new UnreadableImage(
        `disk ${image.target} has ${virtualSizeBytes} bytes in it, not ${bytes}.`,
        image.target,
      );
    }
    const chunkBytes = image.chunkBytes ?? chunkBytesFor(bytes);
    return { target: image.target, nodes, bytes, chunkBytes, extents, reader };
  };
  const disks = await repository.whileAnswering(pMap(prepared, readable, { concurrency: IMAGES_AT_ONCE }));
  return {
    daemon,
    disks,
    key: secret && contentKey(secret),
    end: async () => {
      await daemon.quit();
      await stopped.forget();
    },
  };
}

/**
 * Decrypts and decompresses images that are being opened, and digests what a guest would see.
 *
 * @throws UnreadableImage, HoldfastError QEMU_FAILED
 */
export async function* readOpened(
  context: JobContext,
  repository: WatchedRepository,
  { opened }: Opening,
  { stage, sample }: ReadImagesOptions,
): StageRun<ReadonlyMap<string, ChunkDigests>> {
  const { daemon, disks, key, end } = await opened;
  const watch = (): void => {
    repository.requireAnswer();
  };
  const digests = yield* readDisks(context, daemon, disks, { stage, sample, key, watch });
  await end();
  return digests;
}
