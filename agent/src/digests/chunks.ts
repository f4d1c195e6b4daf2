import { MIB } from '@holdfast/common/bytes.ts';

/** So many digests of 65 bytes are a list of 4 MiB. */
const MAX_CHUNKS = 65_536;
/** Longer ones would say too little of where damage is. A list grows beyond MAX_CHUNKS from 4 TiB on. */
const MAX_CHUNK_BYTES = 64 * MIB;

/** The length of a chunk of something of this length: a power of two of MiB. */
export function chunkBytesFor(bytes: number): number {
  let chunkBytes = MIB;
  while (bytes / chunkBytes > MAX_CHUNKS && chunkBytes < MAX_CHUNK_BYTES) chunkBytes *= 2;
  return chunkBytes;
}

/** How many chunks there are. */
export function chunkCount(bytes: number, chunkBytes: number): number {
  return Math.ceil(bytes / chunkBytes);
}

/** The length of a chunk: the last one may be shorter. */
export function chunkLength(index: number, bytes: number, chunkBytes: number): number {
  return Math.min(chunkBytes, bytes - index * chunkBytes);
}

/** A part of all chunks. */
export interface Sample {
  /** From 1 to 100; 100 is all. */
  readonly percent: number;
  /** As many numbers in a row as there are parts cover all chunks. */
  readonly index: number;
}

export const WHOLE: Sample = { percent: 100, index: 0 };

/** The chunks of a sample, in ascending order: never none of them, unless there are none. */
export function sampledChunks(count: number, { percent, index }: Sample): readonly number[] {
  const parts = Math.max(1, Math.min(Math.floor(100 / percent), count));
  const chosen: number[] = [];
  for (let chunk = index % parts; chunk < count; chunk += parts) chosen.push(chunk);
  return chosen;
}
