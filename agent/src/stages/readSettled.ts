import { readFile, stat } from 'node:fs/promises';
import { MAX_SAVED_BYTES } from '../repository/savedFile.ts';

/** What came of reading a small file. */
export type Reading =
  | {
      readonly kind: 'content';
      readonly content: Uint8Array;
      /** Whether two readings, one after the other, were the same: then it is not a mixture of two states. */
      readonly settled: boolean;
    }
  | { readonly kind: 'missing' }
  | { readonly kind: 'unreadable'; readonly message: string };

const ATTEMPTS = 5;
const DEADLINE_MS = 20_000;

/** Reads a small local file that another process may be writing to, until two readings are the same. */
export async function readSettled(path: string, signal: AbortSignal): Promise<Reading> {
  const deadline = AbortSignal.any([signal, AbortSignal.timeout(DEADLINE_MS)]);
  try {
    const { size } = await stat(path);
    if (size > MAX_SAVED_BYTES) return { kind: 'unreadable', message: `${path} has ${size} bytes` };
    let content = await readFile(path, { signal: deadline });
    for (let attempt = 1; attempt < ATTEMPTS; attempt++) {
      const again = await readFile(path, { signal: deadline });
      if (again.equals(content)) return { kind: 'content', content, settled: true };
      content = again;
    }
    return { kind: 'content', content, settled: false };
  } catch (error) {
    signal.throwIfAborted();
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return { kind: 'missing' };
    return { kind: 'unreadable', message: (error as Error).message };
  }
}
