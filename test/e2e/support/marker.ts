import { open } from 'node:fs/promises';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { namesBelow } from '../../harness/namesBelow.ts';

const STEP = 4 * 1024 * 1024;

/** The files below a directory that hold one of the texts in their raw bytes. */
export async function filesWith(directory: string, ...texts: readonly string[]): Promise<string[]> {
  const found: string[] = [];
  for (const name of await namesBelow(directory)) {
    const file = path.join(directory, name);
    if (await holds(file, texts)) found.push(file);
  }
  return found;
}

/** Looks again and again while `work` goes on; returns its result and all files in which a text was ever found. */
export async function watchingFor<T>(
  directory: string,
  text: string,
  work: Promise<T>,
): Promise<{ readonly result: T; readonly found: readonly string[]; readonly looks: number }> {
  const found = new Set<string>();
  let looks = 0;
  let done = false;
  const ended = work.finally(() => (done = true));
  // Handled below; without this a failure during a look would end the process.
  ended.catch(() => undefined);
  while (!isDone()) {
    for (const file of await filesWith(directory, text)) found.add(file);
    looks += 1;
    await Promise.race([delay(100), ended.catch(() => undefined)]);
  }
  const result = await ended;
  for (const file of await filesWith(directory, text)) found.add(file);
  return { result, found: [...found], looks };

  function isDone(): boolean {
    return done;
  }
}

async function holds(file: string, texts: readonly string[]): Promise<boolean> {
  // A file of a running backup may be gone by now.
  const handle = await open(file).catch(() => undefined);
  if (handle === undefined) return false;
  try {
    if (!(await handle.stat()).isFile()) return false;
    const needles = texts.map((text) => Buffer.from(text));
    const overlap = Math.max(...needles.map((needle) => needle.length)) - 1;
    const buffer = Buffer.alloc(STEP + overlap);
    for (let position = 0, kept = 0; ;) {
      const { bytesRead } = await handle.read(buffer, kept, STEP, position);
      if (bytesRead === 0) return false;
      const seen = buffer.subarray(0, kept + bytesRead);
      if (needles.some((needle) => seen.includes(needle))) return true;
      position += bytesRead;
      kept = Math.min(overlap, seen.length);
      seen.copyWithin(0, seen.length - kept);
    }
  } finally {
    await handle.close();
  }
}
