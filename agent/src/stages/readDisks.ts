import { join } from 'node:path';
import type { Stage } from '@holdfast/proto/holdfast/v1/event.ts';
import { chunkCount, sampledChunks, type Sample } from '../digests/chunks.ts';
import { startDigestReader, type DigestReader } from '../digests/digestReader.ts';
import { totalBytes, type Extent } from '../qemu/extents.ts';
import type { StorageDaemon } from '../qemu/storageDaemon.ts';
import type { JobContext, StageRun } from './context.ts';
import { setLimit } from './copy.ts';
import { whileTelling } from './whileTelling.ts';

/** A node of the daemon under the limit, and the iothread of the daemon that is to work for it, if not its main thread. */
export interface ReadableNode {
  readonly node: string;
  readonly iothread?: string;
}

/** A disk that can be read, and the process that is to do that. */
export interface ReadableDisk {
  readonly target: string;
  /** All of the same content: each is read a part of. */
  readonly nodes: readonly ReadableNode[];
  /** Length of the disk. */
  readonly bytes: number;
  readonly extents: readonly Extent[];
  readonly chunkBytes: number;
  readonly reader: DigestReader;
}

/** The digests of some chunks of a disk, in the order of the chunks. */
export interface ChunkDigests {
  readonly chunks: readonly number[];
  readonly digests: readonly string[];
}

export interface ReadOptions {
  /** Of which the progress is told. */
  readonly stage: Stage;
  readonly sample: Sample;
  /** Of the digests; none for plain ones. */
  readonly key: Uint8Array | undefined;
  /** Looked at all the time; throws when the reading must be given up. */
  readonly watch: () => void;
}

type Served = Pick<JobContext, 'control' | 'runtimeDirectory'>;

/** The socket of the NBD server that the disks are read from. */
function serverSocket({ runtimeDirectory }: Served): string {
  return join(runtimeDirectory, 'nbd.sock');
}

/** What a disk's nodes are called by the server. */
function exportNames(target: string, nodes: number): readonly string[] {
  return Array.from({ length: nodes }, (_, index) => `${target}-${index}`);
}

/**
 * Starts the process that is to read a disk. Whoever does not come to readDisks with it must kill it.
 *
 * @param nodes how many the disk has
 */
export function startReader(context: Served, target: string, nodes: number): DigestReader {
  const server = { socket: serverSocket(context), exports: exportNames(target, nodes) };
  return startDigestReader(server, target, () => {
    context.control.moved();
  });
}

/**
 * Reads what a guest sees on the disks, all at once, and digests it. Nothing of it passes through this process. Ends the
 * processes that read.
 *
 * @throws HoldfastError QEMU_FAILED when a disk could not be read
 */
export async function* readDisks(
  context: Pick<JobContext, 'control' | 'runtimeDirectory' | 'now'>,
  daemon: StorageDaemon,
  disks: readonly ReadableDisk[],
  { stage, sample, key, watch }: ReadOptions,
): StageRun<ReadonlyMap<string, ChunkDigests>> {
  const { control } = context;
  const readers = disks.map(({ reader }) => reader);
  const wanted = disks.map((disk) => {
    const count = chunkCount(disk.bytes, disk.chunkBytes);
    const chunks = sampledChunks(count, sample);
    return { disk, chunks, dataBytes: count === 0 ? 0 : (totalBytes(disk.extents) * chunks.length) / count };
  });
  let release: (() => Promise<void>) | undefined;
  try {
    const addr = { type: 'unix', data: { path: serverSocket(context) } };
    await daemon.qmp.execute('nbd-server-start', { addr });
    release = await control.steer(
      {
        setLimit: (bytesPerSecond) => setLimit(daemon, bytesPerSecond),
        pause: () => {
          for (const reader of readers) reader.setPaused(true);
          return Promise.resolve();
        },
        resume: () => {
          for (const reader of readers) reader.setPaused(false);
          return Promise.resolve();
        },
      },
      async () => {
        for (const { disk, chunks } of wanted) {
          const { target, nodes, bytes, chunkBytes, extents, reader } = disk;
          const names = exportNames(target, nodes.length);
          for (const [index, { node, iothread }] of nodes.entries()) {
            const name = names[index];
            const more = { id: `digest-${name}`, 'node-name': node, name, writable: false, iothread };
            await daemon.qmp.execute('block-export-add', { type: 'nbd', ...more });
          }
          reader.read({ bytes, chunkBytes, chunks, extents, key });
        }
      },
    );
    const all = Promise.all(readers.map(({ digests }) => digests));
    const dataBytes = wanted.reduce((sum, each) => sum + each.dataBytes, 0);
    const digests = yield* whileTelling(
      context,
      stage,
      all,
      () => {
        const readBytes = readers.reduce((sum, reader) => sum + reader.readBytes(), 0);
        const totalBytes = Math.round(Math.max(readBytes, dataBytes));
        return { processedBytes: BigInt(readBytes), totalBytes: BigInt(totalBytes) };
      },
      watch,
    );
    return new Map(
      wanted.map(({ disk, chunks }, index) => [disk.target, { chunks, digests: digests[index] ?? [] }]),
    );
  } finally {
    await Promise.all(readers.map((reader) => reader.kill()));
    await release?.();
    // A daemon that died has no server either.
    await daemon.qmp.execute('nbd-server-stop').catch(() => undefined);
  }
}
