import { closeSync, existsSync, fsyncSync, openSync, renameSync, rmSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { HoldfastError } from '@holdfast/common/errors.ts';
import { explained } from './node-sqlite.ts';
import { checkIntegrity, SQLITE_FILE } from './sqlite.ts';

/**
 * Copies the database of a state directory into a new file (0600), as it is at one moment, while a controller works on it
 * or not. The copy is checked, and safe on disk when this returns.
 *
 * @throws HoldfastError INVALID_REQUEST when there is no database, TARGET_EXISTS, DIRECTORY_UNUSABLE when the file cannot
 *   be made, STATE_UNUSABLE when the database is damaged, STATE_UNAVAILABLE when a disk is full
 */
export function copySqlite(stateDirectory: string, target: string): void {
  const source = join(stateDirectory, SQLITE_FILE);
  if (!existsSync(source)) {
    throw new HoldfastError(
      'INVALID_REQUEST',
      `There is no database ${source}. Name the controller's state directory.`,
    );
  }
  if (existsSync(target)) {
    throw new HoldfastError('TARGET_EXISTS', `${target} is there already, and is left as it is.`);
  }
  const partial = `${target}.partial`;
  try {
    makePrivateFile(partial);
    copyInto(source, partial);
    syncPath(partial);
    renameSync(partial, target);
    syncPath(dirname(target));
  } finally {
    rmSync(partial, { force: true });
  }
}

function copyInto(source: string, target: string): void {
  try {
    using database = new DatabaseSync(source, { timeout: 5_000, readOnly: true });
    // One reading transaction: it sees one moment, and holds no writer up.
    database.prepare('vacuum into ?').run(target);
    using copy = new DatabaseSync(target, { readOnly: true });
    checkIntegrity(copy, target);
  } catch (error) {
    throw explained(error, source);
  }
}

function makePrivateFile(path: string): void {
  try {
    // What a killed copy left.
    rmSync(path, { force: true });
    closeSync(openSync(path, 'wx', 0o600));
  } catch (cause) {
    throw new HoldfastError('DIRECTORY_UNUSABLE', `Cannot write ${path}: ${(cause as Error).message}`, {
      cause,
    });
  }
}

function syncPath(path: string): void {
  const file = openSync(path, 'r');
  try {
    fsyncSync(file);
  } finally {
    closeSync(file);
  }
}
