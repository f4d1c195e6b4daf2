import { existsSync } from 'node:fs';
import { readdir } from 'node:fs/promises';
import { until } from '../lab/deadline.ts';

/** A reading meets the removal of one folder, or of a few. */
const READING_MS = 20_000;

/**
 * All that is below a directory, each by its path from there, while others may make and remove what they like in it:
 * `readdir` alone fails when a folder that it has seen is gone before it was entered.
 *
 * @throws ENOENT when the directory itself is not there
 */
export function namesBelow(directory: string): Promise<string[]> {
  return until(`${directory} can be read from beginning to end`, READING_MS, async () => {
    try {
      return await readdir(directory, { recursive: true });
    } catch (error) {
      if (isGone(error) && existsSync(directory)) return undefined;
      throw error;
    }
  });
}

function isGone(error: unknown): boolean {
  return error instanceof Error && 'code' in error && error.code === 'ENOENT';
}
