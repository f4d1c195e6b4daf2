import { createCipheriv, createHash, type Cipheriv } from 'node:crypto';
import { KiB, MiB, type DiskContent } from './spec.ts';

const STEP = 64 * KiB;

/** The bytes of a disk without file system, in blocks of 1 MiB; what no block covers is a hole. */
export function* bytesOf(
  content: DiskContent,
  sizeBytes: number,
): Generator<{ readonly position: number; readonly bytes: Buffer }> {
  switch (content.kind) {
    case 'empty':
    case 'files':
      return;
    case 'random': {
      const stream = keystream(content.seed ?? 'lab');
      for (let position = 0; position < sizeBytes; position += MiB * (content.everyMiB ?? 1)) {
        const bytes = stream.update(Buffer.alloc(Math.min(MiB, sizeBytes - position)));
        mark(bytes, content.marker);
        yield { position, bytes };
      }
      return;
    }
    case 'pattern':
      for (let position = 0; position < sizeBytes; position += MiB) {
        const bytes = Buffer.alloc(Math.min(MiB, sizeBytes - position));
        for (let step = 0; step < bytes.length; step += STEP) {
          bytes.fill(
            `This is byte ${position + step} of the disk. `,
            step,
            Math.min(step + STEP, bytes.length),
          );
        }
        mark(bytes, content.marker);
        yield { position, bytes };
      }
  }
}

/** Puts the marker at the start of each 64 KiB. */
export function mark(bytes: Buffer, marker: string | undefined): void {
  if (marker === undefined) return;
  for (let step = 0; step < bytes.length; step += STEP) bytes.write(marker, step);
}

/** AES-CTR: as random as a compressor cares for, the same for the same seed, and faster than any disk here. */
function keystream(seed: string): Cipheriv {
  return createCipheriv('aes-256-ctr', createHash('sha256').update(seed).digest(), Buffer.alloc(16));
}
