import { chmodSync, closeSync, mkdirSync, openSync } from 'node:fs';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { Kysely, sql, SqliteDialect } from 'kysely';
import { HoldfastError } from '@holdfast/common/errors.ts';
import { lockState } from './lock.ts';
import { asKyselyDatabase, damaged, explained } from './node-sqlite.ts';
import { noNotices } from './notices.ts';
import type { Database, Trx } from './store.ts';
import type { Tables } from './schema.ts';

/** The name of the database in a state directory. */
export const SQLITE_FILE = 'controller.sqlite';

/** So many faults are named; there may be more. */
const NAMED_FAULTS = 3;

/**
 * The database in a state directory, which is made (0700, its files 0600) when it is not there.
 *
 * @throws HoldfastError IN_USE when another controller has it, STATE_UNUSABLE when it is damaged
 */
export function openSqlite(stateDirectory: string): Database {
  mkdirSync(stateDirectory, { recursive: true, mode: 0o700 });
  chmodSync(stateDirectory, 0o700);
  const lock = lockState(privateFile(stateDirectory, 'controller.lock'));
  try {
    const path = privateFile(stateDirectory, SQLITE_FILE);
    const database = openFile(path);
    const db = new Kysely<Tables>({ dialect: new SqliteDialect({ database: asKyselyDatabase(database) }) });
    return {
      kind: 'sqlite',
      db,
      notices: noNotices,
      shared: false,
      clockMs: sql<number>`cast(unixepoch('subsec') * 1000 as integer)`,
      prepare: async (_isOutdated, migrate) => {
        await migrate();
      },
      begin: (body: (trx: Trx) => Promise<void>) => db.transaction().execute(body),
      mustRepeat: () => false,
      scrub: () => {
        // What was deleted is zeroed in the database itself; the log still has the pages of before.
        checkpoint(database, path);
        return Promise.resolve();
      },
      close: async () => {
        await db.destroy();
        lock.release();
      },
    };
  } catch (error) {
    lock.release();
    throw error;
  }
}

function openFile(path: string): DatabaseSync {
  try {
    const database = new DatabaseSync(path, { timeout: 5_000, enableForeignKeyConstraints: true });
    try {
      checkIntegrity(database, path);
      database.exec('pragma journal_mode = wal');
      database.exec('pragma synchronous = full');
      database.exec('pragma secure_delete = on');
      return database;
    } catch (error) {
      database.close();
      throw error;
    }
  } catch (error) {
    throw explained(error, path);
  }
}

/** Moves the log into the database and empties it. @throws HoldfastError STATE_UNAVAILABLE while a copy is being made */
function checkpoint(database: DatabaseSync, path: string): void {
  try {
    const done = database.prepare('pragma wal_checkpoint(truncate)').get();
    if (done?.['busy'] === 0) return;
  } catch (error) {
    throw explained(error, path);
  }
  throw new HoldfastError('STATE_UNAVAILABLE', `The database ${path} is being read; it is scrubbed later.`);
}

/** Reads the whole database. @throws HoldfastError STATE_UNUSABLE when it is damaged */
export function checkIntegrity(database: DatabaseSync, path: string): void {
  const rows = database.prepare(`pragma integrity_check(${NAMED_FAULTS})`).all();
  const faults = rows.map((row) => String(row['integrity_check'])).filter((text) => text !== 'ok');
  if (faults.length > 0) throw damaged(path, faults.join('; ').replaceAll(/\s+/g, ' '));
}

/** SQLite gives its side files the mode of the database. */
function privateFile(directory: string, name: string): string {
  const path = join(directory, name);
  closeSync(openSync(path, 'a', 0o600));
  chmodSync(path, 0o600);
  return path;
}
