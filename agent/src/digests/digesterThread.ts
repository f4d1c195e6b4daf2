/**
 * The thread of digester.ts. Is sent the pieces, in the order of the disk, and answers each when it is digested: with the digest
 * of the chunk when it was the last of one.
 */
import { parentPort, workerData } from 'node:worker_threads';
import { chunkDigest, PIECE_BYTES, type ChunkDigest } from './chunkDigest.ts';
import type { DigesterData, ReadPiece } from './digester.ts';
import { UNREADABLE } from './digestList.ts';

const port = parentPort;
if (port === null) throw new Error('started by digester.ts only');
const { memory, key } = workerData as DigesterData;

/** Of the chunk at hand. */
let digest: ChunkDigest = chunkDigest(key);
let position = 0;
let isWhole = true;

port.on('message', ({ slot, offset, bytes, isReadable, chunkEnd }: ReadPiece) => {
  digest.skip(offset - position);
  position = offset + bytes;
  if (isReadable) digest.update(Buffer.from(memory, slot * PIECE_BYTES, bytes));
  else isWhole = false;
  port.postMessage(chunkEnd === undefined ? undefined : endChunk(chunkEnd));
});

function endChunk(chunkEnd: number): string {
  digest.skip(chunkEnd - position);
  const text = isWhole ? digest.end() : UNREADABLE;
  digest = chunkDigest(key);
  position = 0;
  isWhole = true;
  return text;
}
