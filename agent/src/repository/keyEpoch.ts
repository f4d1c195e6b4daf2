import { mkdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { replaceFile } from './keyFiles.ts';
import { KEY_EPOCH_FILE, ZONE_KEYS_FOLDER } from './layout.ts';
import { RepositoryProblem } from './problem.ts';

/**
 * Keeps a controller that was replaced from writing key files over its successor's. The newest epoch lies in the
 * repository, since each of the two may ask another host. Both functions run in the helper process only.
 *
 * @returns the newest epoch: the given one, which is durable then, or a newer one
 */
export async function acceptKeyEpoch(root: string, epoch: number): Promise<number> {
  const known = await readKeyEpoch(root);
  if (known >= epoch) return known;
  await mkdir(join(root, ZONE_KEYS_FOLDER), { recursive: true, mode: 0o700 });
  await replaceFile(join(root, KEY_EPOCH_FILE), Buffer.from(`${epoch}\n`));
  return epoch;
}

/** @throws RepositoryProblem STALE_EPOCH when a newer one has been accepted */
export async function requireKeyEpoch(root: string, epoch: number): Promise<void> {
  const known = await readKeyEpoch(root);
  if (epoch >= known) return;
  throw new RepositoryProblem(
    'STALE_EPOCH',
    `A newer controller (epoch ${known}) writes key files; this one has epoch ${epoch}.`,
  );
}

/** 0 when there is none. What is no number was not written by an agent, and holds nobody back. */
async function readKeyEpoch(root: string): Promise<number> {
  const text = await readFile(join(root, KEY_EPOCH_FILE), 'utf8').catch((error: unknown) => {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return '';
    throw error;
  });
  return /^\d{1,15}\n$/.test(text) ? Number(text) : 0;
}
