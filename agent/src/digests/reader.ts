/**
 * The program that reads a disk through an NBD export and digests it: one process for each disk, so that hashing takes no
 * time from whoever must answer. Speaks over the IPC channel of child_process.fork; ends with its parent.
 *
 *     reader.ts SOCKET EXPORT
 */
import type { Extent } from '../qemu/extents.ts';
import { chunkLength } from './chunks.ts';
import { chunkDigest, PIECE_BYTES } from './chunkDigest.ts';
import { UNREADABLE } from './digestList.ts';
import { connectNbd, NbdReadError, type NbdClient } from './nbdClient.ts';

/** What is to be read. */
export interface ReaderTask {
  readonly kind: 'task';
  /** Length of the disk. */
  readonly bytes: number;
  readonly chunkBytes: number;
  /** In ascending order. */
  readonly chunks: readonly number[];
  /** Where data is; what lies between is zeroes and not read. */
  readonly extents: readonly Extent[];
  /** For HMAC-SHA-256; plain SHA-256 without. */
  readonly key: Uint8Array | undefined;
}

/** What it is told. */
export type ReaderOrder = ReaderTask | { readonly kind: 'pause'; readonly paused: boolean };

/** What it tells: digests as they are done, in the order of the chunks, and its end. */
export type ReaderReport =
  | { readonly kind: 'digests'; readonly digests: readonly string[]; readonly readBytes: number }
  | { readonly kind: 'done' }
  | { readonly kind: 'failed'; readonly message: string };

/**
 * Requests in flight: QEMU decrypts and decompresses the clusters of each, several at a time. More of them, or smaller ones,
 * take what is read out of the processor's caches before it is digested.
 */
const IN_FLIGHT = 4;
/** How often it tells. */
const TELL_EVERY_MS = 200;

/** A piece on its way, or zeroes. */
interface Piece {
  readonly bytes: number;
  readonly lastOfChunk: boolean;
  readonly buffer: Buffer | undefined;
  readonly arrived: Promise<void> | undefined;
}

const [, , socket = '', exportName = ''] = process.argv;
const tell = (report: ReaderReport): Promise<void> =>
  new Promise((resolve) => {
    process.send?.(report, () => {
      resolve();
    });
  });
let unpaused = Promise.resolve();
let unpause = (): void => undefined;

process.on('message', (order: ReaderOrder) => {
  if (order.kind === 'pause') {
    unpause();
    if (order.paused) {
      const { promise, resolve } = Promise.withResolvers<undefined>();
      unpaused = promise.then(() => undefined);
      unpause = () => {
        resolve(undefined);
      };
    }
    return;
  }
  void work(order).then(
    () => tell({ kind: 'done' }).then(() => process.exit(0)),
    (error: unknown) =>
      tell({ kind: 'failed', message: (error as Error).message }).then(() => process.exit(1)),
  );
});
process.on('disconnect', () => process.exit(0));

async function work(task: ReaderTask): Promise<void> {
  const nbd = await connectNbd(socket, exportName);
  const free: Buffer[] = Array.from({ length: IN_FLIGHT }, () => Buffer.alloc(PIECE_BYTES));
  const pieces = piecesOf(task, nbd, free);
  const window: Piece[] = [];
  let digest = chunkDigest(task.key);
  /** Of the chunk that is being read. */
  const unreadable = { is: false };
  let done: string[] = [];
  let readBytes = 0;
  let toldAtMs = performance.now();
  const report = async (): Promise<void> => {
    await tell({ kind: 'digests', digests: done, readBytes });
    done = [];
    readBytes = 0;
    toldAtMs = performance.now();
  };
  for (;;) {
    await unpaused;
    while (window.length < IN_FLIGHT) {
      const { value, done: isOver } = pieces.next();
      if (isOver === true) break;
      window.push(value);
    }
    const piece = window.shift();
    if (piece === undefined) break;
    if (piece.buffer === undefined) digest.skip(piece.bytes);
    else {
      await piece.arrived?.then(
        () => {
          digest.update(piece.buffer?.subarray(0, piece.bytes) ?? Buffer.alloc(0));
        },
        (error: unknown) => {
          if (!(error instanceof NbdReadError)) throw error;
          unreadable.is = true;
        },
      );
      free.push(piece.buffer);
      readBytes += piece.bytes;
    }
    if (piece.lastOfChunk) {
      done.push(unreadable.is ? UNREADABLE : digest.end());
      unreadable.is = false;
      digest = chunkDigest(task.key);
    }
    if (performance.now() - toldAtMs >= TELL_EVERY_MS) await report();
  }
  await report();
  nbd.close();
}

function endOf(extent: Extent | undefined): number {
  return extent === undefined ? Infinity : extent.start + extent.length;
}

/** All pieces in order, each asked for when it is taken. There is a free buffer whenever fewer than IN_FLIGHT are open. */
function* piecesOf(task: ReaderTask, nbd: NbdClient, free: Buffer[]): Generator<Piece, undefined, undefined> {
  const { bytes, chunkBytes, chunks, extents } = task;
  let next = 0;
  for (const chunk of chunks) {
    const start = chunk * chunkBytes;
    const end = start + chunkLength(chunk, bytes, chunkBytes);
    for (let offset = start; offset < end; offset += PIECE_BYTES) {
      const length = Math.min(PIECE_BYTES, end - offset);
      while (endOf(extents[next]) <= offset) next++;
      const extent = extents[next];
      const piece = { bytes: length, lastOfChunk: offset + length === end };
      if (extent === undefined || extent.start >= offset + length) {
        yield { ...piece, buffer: undefined, arrived: undefined };
        continue;
      }
      const buffer = free.pop() ?? Buffer.alloc(PIECE_BYTES);
      const arrived = nbd.read(offset, buffer.subarray(0, length));
      // It is awaited in its turn; until then nobody looks.
      arrived.catch(() => undefined);
      yield { ...piece, buffer, arrived };
    }
  }
  return undefined;
}
