import { readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { isPartial, isTemporaryFile, ZONE_KEYS_FOLDER } from './layout.ts';

/** A folder or a file that is not, or no longer, under its final name. */
export interface UnfinishedEntry {
  readonly kind: 'folder' | 'file';
  /** Relative to the repository. */
  readonly path: string;
  /** When anything in it was changed last, by the clock of its file system. */
  readonly changedMs: number;
}

/** What is unfinished in the repository at `root`. Runs in the helper process only. */
export async function unfinishedIn(root: string): Promise<readonly UnfinishedEntry[]> {
  const found: UnfinishedEntry[] = [];
  const note = async (kind: UnfinishedEntry['kind'], path: string): Promise<void> => {
    const changedMs = await lastChange(join(root, path)).catch(ifGone);
    if (changedMs !== undefined) found.push({ kind, path, changedMs });
  };
  for (const entry of await readdir(root, { withFileTypes: true })) {
    if (!entry.isDirectory()) {
      if (isTemporaryFile(entry.name)) await note('file', entry.name);
      continue;
    }
    for (const inner of (await readdir(join(root, entry.name), { withFileTypes: true }).catch(ifGone)) ??
      []) {
      const path = `${entry.name}/${inner.name}`;
      if (inner.isDirectory() && isPartial(inner.name)) await note('folder', path);
      else if (entry.name === ZONE_KEYS_FOLDER && isTemporaryFile(path)) await note('file', path);
    }
  }
  return found;
}

/** Of a file, or of a folder and what is directly in it, in milliseconds since 1970. */
async function lastChange(path: string): Promise<number> {
  const own = await stat(path);
  if (!own.isDirectory()) return own.mtimeMs;
  const files = await readdir(path);
  const inner = await Promise.all(
    files.map(async (name) => (await stat(join(path, name)).catch(ifGone))?.mtimeMs ?? 0),
  );
  return Math.max(own.mtimeMs, ...inner);
}

/** What is being worked on may end while it is looked at; what cannot be entered is not ours. */
function ifGone(error: unknown): undefined {
  if (!['ENOENT', 'EACCES', 'ENOTDIR'].includes((error as NodeJS.ErrnoException).code ?? '')) throw error;
  return undefined;
}
