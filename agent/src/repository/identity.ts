import { randomUUID } from 'node:crypto';
import { open, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { isUuid } from '@holdfast/common/uuid.ts';
import { REPOSITORY_ID_FILE } from './layout.ts';
import { RepositoryProblem } from './problem.ts';

/** Another host may have made the file and not yet written it. */
const WRITE_ATTEMPTS = 20;
const WRITE_WAIT_MS = 100;

/**
 * Refuses a file system that is not the one that was taken into use: another export, or the empty directory below a
 * mount that is not there.
 *
 * @throws RepositoryProblem REPOSITORY_MISMATCH
 */
export async function requireRepositoryId(root: string, expected: string): Promise<void> {
  const found = await readId(root);
  if (found === expected) return;
  throw new RepositoryProblem(
    'REPOSITORY_MISMATCH',
    found === undefined
      ? `It has no file ${REPOSITORY_ID_FILE}, which it had when it was added, so it is another file system now. Is the ` +
          'right one mounted? Nothing was touched.'
      : `It is repository ${JSON.stringify(found.slice(0, 40))} and was ${expected} when it was added, so it is another ` +
          'file system now. Nothing was touched.',
  );
}

/**
 * The id of a repository; a new one when it has none. Of several hosts that ask at the same time, one makes it.
 *
 * @throws RepositoryProblem REPOSITORY_MISMATCH when the file is there and is no id.
 */
export async function takeRepositoryId(root: string): Promise<string> {
  for (let attempt = 0; attempt < WRITE_ATTEMPTS; attempt++) {
    const found = await readId(root);
    if (found === undefined) {
      const made = await makeId(root);
      if (made !== undefined) return made;
    } else if (isUuid(found)) {
      return found;
    } else {
      await sleep(WRITE_WAIT_MS);
    }
  }
  throw new RepositoryProblem(
    'REPOSITORY_MISMATCH',
    `Its file ${REPOSITORY_ID_FILE} does not hold a UUID. Remove the file if nothing else uses the directory.`,
  );
}

/** Undefined when another one has made the file meanwhile. */
async function makeId(root: string): Promise<string | undefined> {
  const id = randomUUID();
  const file = await open(join(root, REPOSITORY_ID_FILE), 'wx', 0o600).catch((error: unknown) => {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
  });
  if (file === undefined) return undefined;
  try {
    await file.writeFile(`${id}\n`);
    await file.sync();
  } finally {
    await file.close();
  }
  return id;
}

async function readId(root: string): Promise<string | undefined> {
  const text = await readFile(join(root, REPOSITORY_ID_FILE), 'utf8').catch((error: unknown) => {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
  });
  // A directory that is not there has its own error.
  if (text === undefined) await stat(root);
  return text?.trim();
}
