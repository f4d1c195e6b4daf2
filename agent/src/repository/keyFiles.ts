import { constants, open, readdir, rename, unlink } from 'node:fs/promises';
import { randomUUID } from 'node:crypto';
import { join } from 'node:path';
import pMap from 'p-map';
import { keyFile, keyIdOfFile, temporaryFile, zoneKeyFile, ZONE_KEYS_FOLDER } from './layout.ts';

/** The file with the key of the backup in `path`, a folder relative to the repository. */
export interface BackupKeyFile {
  readonly path: string;
  /** The zone key that opens it. */
  readonly keyId: string;
  readonly wrappedKey: Uint8Array;
}

/** The file with a zone's key, under a passphrase; one without content shall not be there. */
export interface ZoneKeyFile {
  readonly keyId: string;
  readonly content: Uint8Array;
}

export interface FoundKeyFiles {
  readonly backups: readonly BackupKeyFile[];
  /** Whether there are more than were asked for. */
  readonly more: boolean;
  readonly zoneKeys: readonly ZoneKeyFile[];
}

/** Longer ones are no key files. */
const MAX_KEY_FILE_BYTES = 65_536;
/** As many as Node has threads for. */
const AT_ONCE = 4;

/** The files of backups in the repository at `root` that any of the zone keys opens. Runs in the helper process only. */
export async function findBackupKeyFiles(
  root: string,
  keyIds: readonly string[],
  limit: number,
): Promise<Pick<FoundKeyFiles, 'backups' | 'more'>> {
  const found: BackupKeyFile[] = [];
  for (const domain of await foldersIn(root)) {
    const backups = await foldersIn(join(root, domain));
    await pMap(
      backups,
      async (backup) => {
        if (found.length > limit) return;
        const path = `${domain}/${backup}`;
        for (const name of await readdir(join(root, path)).catch(ifGone)) {
          const keyId = keyIdOfFile(withoutTemporary(name));
          if (keyId === undefined || !keyIds.includes(keyId)) continue;
          const wrappedKey = await smallFile(join(root, path, name));
          if (wrappedKey !== undefined) found.push({ path, keyId, wrappedKey });
        }
      },
      { concurrency: AT_ONCE },
    );
    if (found.length > limit) break;
  }
  return { backups: found.slice(0, limit), more: found.length > limit };
}

/** The files of all zone keys, in the repository at `root`. Runs in the helper process only. */
export async function findZoneKeyFiles(root: string): Promise<readonly ZoneKeyFile[]> {
  const found: ZoneKeyFile[] = [];
  for (const name of await readdir(join(root, ZONE_KEYS_FOLDER)).catch(ifGone)) {
    const keyId = /^(?<id>[\w-]{1,128})\.age$/.exec(name)?.groups?.['id'];
    if (keyId === undefined) continue;
    const content = await smallFile(join(root, ZONE_KEYS_FOLDER, name));
    if (content !== undefined) found.push({ keyId, content });
  }
  return found;
}

/**
 * Writes files with backups' keys durably, each in one step, and then removes all others of its folder. Runs in the helper
 * process only.
 *
 * @param requireEpoch asked before each; what it throws ends it
 *
 * @returns the folders that are not there
 */
export async function writeBackupKeyFiles(
  root: string,
  files: readonly BackupKeyFile[],
  requireEpoch: () => Promise<void>,
): Promise<readonly string[]> {
  const missing: string[] = [];
  await pMap(
    files,
    async ({ path, keyId, wrappedKey }) => {
      const folder = join(root, path);
      const names = await readdir(folder).catch((error: unknown) => {
        if (!isGone(error)) throw error;
        missing.push(path);
        return undefined;
      });
      if (names === undefined) return;
      await requireEpoch();
      const wanted = keyFile(keyId);
      await replaceFile(join(folder, wanted), wrappedKey);
      const others = names.filter(
        (name) => name !== wanted && keyIdOfFile(withoutTemporary(name)) !== undefined,
      );
      if (others.length === 0) return;
      for (const name of others) await unlink(join(folder, name)).catch(ifGone);
      await syncFolder(folder);
    },
    { concurrency: AT_ONCE },
  );
  return missing;
}

/** Removes the file of a zone's key, and what an interrupted write of it left. Runs in the helper process only. */
export async function removeZoneKeyFile(root: string, keyId: string): Promise<void> {
  const folder = join(root, ZONE_KEYS_FOLDER);
  const doomed = (await readdir(folder).catch(ifGone)).filter(
    (name) => `${ZONE_KEYS_FOLDER}/${withoutTemporary(name)}` === zoneKeyFile(keyId),
  );
  if (doomed.length === 0) return;
  for (const name of doomed) await unlink(join(folder, name)).catch(ifGone);
  await syncFolder(folder);
}

/** Writes a whole file durably, in the place of one that is there or not. */
export async function replaceFile(path: string, content: Uint8Array): Promise<void> {
  const temporary = temporaryFile(path, randomUUID());
  const file = await open(temporary, 'wx', 0o600);
  try {
    await file.writeFile(content);
    await file.sync();
  } catch (error) {
    await unlink(temporary);
    throw error;
  } finally {
    await file.close();
  }
  await rename(temporary, path);
  await syncFolder(join(path, '..'));
}

/** Makes a folder's entries durable. */
export async function syncFolder(path: string): Promise<void> {
  const folder = await open(path, constants.O_RDONLY | constants.O_DIRECTORY);
  try {
    await folder.sync();
  } finally {
    await folder.close();
  }
}

/** A file under the name that it has, or would have had when it was whole. */
function withoutTemporary(name: string): string {
  return name.replace(/\.[0-9a-f-]{36}\.tmp$/, '');
}

async function foldersIn(path: string): Promise<readonly string[]> {
  const entries = await readdir(path, { withFileTypes: true }).catch((error: unknown) => {
    if (!isGone(error)) throw error;
    return [];
  });
  return entries.filter((entry) => entry.isDirectory()).map(({ name }) => name);
}

async function smallFile(path: string): Promise<Uint8Array | undefined> {
  const file = await open(path, 'r').catch((error: unknown) => {
    if (!isGone(error)) throw error;
    return undefined;
  });
  if (file === undefined) return undefined;
  try {
    return (await file.stat()).size > MAX_KEY_FILE_BYTES ? Buffer.alloc(0) : await file.readFile();
  } finally {
    await file.close();
  }
}

function ifGone(error: unknown): never[] {
  if (!isGone(error)) throw error;
  return [];
}

/** What is looked at may be deleted meanwhile; what is no folder, or cannot be entered, holds no backup of ours. */
function isGone(error: unknown): boolean {
  return ['ENOENT', 'ENOTDIR', 'EACCES'].includes((error as NodeJS.ErrnoException).code ?? '');
}
