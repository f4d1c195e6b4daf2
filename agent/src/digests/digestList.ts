import type { ByteRange } from '@holdfast/proto/holdfast/v1/event.ts';
import { chunkLength } from './chunks.ts';

/** What stands in a list in the place of the digest of a chunk that has nothing but zeroes. */
export const ZEROES = '-';

/** What is told of a chunk that could not be read. It stands in no list. */
export const UNREADABLE = '!';

const LINE = /^(?:-|[0-9a-f]{64})$/;

/** 256 TiB in chunks of 64 MiB. */
export const MAX_LIST_BYTES = 65 * 4_194_304;

/** The file of a list: a line for each chunk. */
export function encodeDigests(digests: readonly string[]): Buffer {
  return Buffer.from(digests.map((digest) => `${digest}\n`).join(''));
}

/** The digests in a list; undefined when it is none. */
export function parseDigests(content: Uint8Array): readonly string[] | undefined {
  const text = Buffer.from(content).toString('latin1');
  if (text === '') return [];
  if (!text.endsWith('\n')) return undefined;
  const lines = text.slice(0, -1).split('\n');
  return lines.every((line) => LINE.test(line)) ? lines : undefined;
}

/** Where chunks are, as ranges: neighbours are one. */
export function rangesOf(
  chunks: readonly number[],
  { bytes, chunkBytes }: { readonly bytes: number; readonly chunkBytes: number },
): readonly ByteRange[] {
  const ranges: { offset: bigint; length: bigint }[] = [];
  for (const chunk of chunks) {
    const offset = BigInt(chunk * chunkBytes);
    const length = BigInt(chunkLength(chunk, bytes, chunkBytes));
    const last = ranges.at(-1);
    if (last !== undefined && last.offset + last.length === offset) last.length += length;
    else ranges.push({ offset, length });
  }
  return ranges;
}
