import { DatabaseSync } from 'node:sqlite';

/** A lock on a file that this process has, until release() or its end, however it ends. */
export interface FileLock {
  release(): void;
}

/**
 * Locks a file, made when it is not there, together with others that do the same. The lock is the operating system's,
 * taken through SQLite since Node has no flock, so that a process that is killed holds nothing. The file is never removed:
 * a lock on a file that has lost its name excludes nobody.
 *
 * @returns undefined when another process has it alone.
 */
export function lockShared(path: string): FileLock | undefined {
  // A read transaction keeps SQLite's SHARED lock until it ends.
  return lock(path, 'begin; select count(*) from sqlite_schema');
}

/** Locks a file for this process alone; undefined when any other has it. */
export function lockAlone(path: string): FileLock | undefined {
  return lock(path, 'begin exclusive');
}

function lock(path: string, statements: string): FileLock | undefined {
  const database = new DatabaseSync(path, { timeout: 0 });
  try {
    database.exec(statements);
  } catch (error) {
    database.close();
    // https://sqlite.org/rescode.html: SQLITE_BUSY
    if ((error as { errcode?: number }).errcode === 5) return undefined;
    throw error;
  }
  return {
    release: () => {
      if (database.isOpen) database.close();
    },
  };
}
