/**
 * The program that reads a disk through NBD exports, all of the same content, by turns, and has it digested by a thread: one
 * process for each disk, so that this takes no time from whoever must answer. Speaks over the IPC channel of
 * child_process.fork; ends with its parent.
 *
 *     reader.ts SOCKET EXPORT...
 */
import type { Extent } from '../qemu/extents.ts';
import { chunkLength } from './chunks.ts';
import { PIECE_BYTES } from './chunkDigest.ts';
import { startDigester, type Piece } from './digester.ts';
import { ZEROES } from './digestList.ts';
import { connectNbd, NbdReadError } from './nbdClient.ts';

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

/** How often it tells. */
const TELL_EVERY_MS = 200;

const [, , socket = '', ...exportNames] = process.argv;
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

async function work({ bytes, chunkBytes, chunks, extents, key }: ReaderTask): Promise<void> {
  const turns = await Promise.all(exportNames.map((name) => connectNbd(socket, name)));
  const digester = startDigester(key);
  /** In the order of the chunks, with gaps for those that are still read. */
  const digests: string[] = [];
  let told = 0;
  let readBytes = 0;
  let toldAtMs = performance.now();
  const report = async (): Promise<void> => {
    const first = told;
    while (digests[told] !== undefined) told++;
    await tell({ kind: 'digests', digests: digests.slice(first, told), readBytes });
    readBytes = 0;
    toldAtMs = performance.now();
  };
  const isReadable = (error: unknown): boolean => {
    if (error instanceof NbdReadError) return false;
    throw error;
  };
  let latest: Promise<void> | undefined;
  const dataOf = dataPieces(extents);
  for (const [index, chunk] of chunks.entries()) {
    const start = chunk * chunkBytes;
    const pieces = dataOf(start, chunkLength(chunk, bytes, chunkBytes));
    if (pieces.length === 0) digests[index] = ZEROES;
    for (const piece of pieces) {
      await unpaused;
      const slot = await digester.slot();
      const nbd = turns.shift();
      if (nbd === undefined) throw new Error('there is nothing to read from');
      turns.push(nbd);
      const arrived = nbd.read(start + piece.offset, slot.buffer.subarray(0, piece.bytes));
      latest = digester
        .digest(
          slot,
          piece,
          arrived.then(() => true, isReadable),
        )
        .then((digest) => {
          readBytes += piece.bytes;
          if (digest !== undefined) digests[index] = digest;
        });
      // All later ones fail with it, and the last one is awaited.
      latest.catch(() => undefined);
    }
    if (performance.now() - toldAtMs >= TELL_EVERY_MS) await report();
  }
  await latest;
  await report();
  for (const nbd of turns) nbd.close();
  await digester.close();
}

/** Finds the pieces of chunks that hold data; the chunks come in ascending order. */
function dataPieces(extents: readonly Extent[]): (start: number, length: number) => readonly Piece[] {
  let next = 0;
  return (start, length) => {
    const found: { readonly offset: number; readonly bytes: number }[] = [];
    for (let offset = 0; offset < length; offset += PIECE_BYTES) {
      const bytes = Math.min(PIECE_BYTES, length - offset);
      while (endOf(extents[next]) <= start + offset) next++;
      if ((extents[next]?.start ?? Infinity) < start + offset + bytes) found.push({ offset, bytes });
    }
    return found.map((piece, index) => ({
      ...piece,
      chunkEnd: index === found.length - 1 ? length : undefined,
    }));
  };
}

function endOf(extent: Extent | undefined): number {
  return extent === undefined ? Infinity : extent.start + extent.length;
}
