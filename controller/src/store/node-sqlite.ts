import type { DatabaseSync, SQLInputValue } from 'node:sqlite';
import type { SqliteDatabase } from 'kysely';
import { HoldfastError } from '@holdfast/common/errors.ts';

/** So many statements are kept prepared. */
const MAX_PREPARED = 300;

/** Node's own SQLite in the shape that Kysely's dialect takes, which is better-sqlite3's. */
export function asKyselyDatabase(database: DatabaseSync): SqliteDatabase {
  const path = database.location() ?? '';
  const prepared = new Map<string, ReturnType<SqliteDatabase['prepare']>>();
  return {
    prepare: (sql) => {
      const known = prepared.get(sql);
      if (known !== undefined) return known;
      // What is made anew each time, such as lists of other lengths, must not fill the memory.
      if (prepared.size === MAX_PREPARED) prepared.clear();
      const statement = database.prepare(sql);
      const made: ReturnType<SqliteDatabase['prepare']> = {
        reader: statement.columns().length > 0,
        all: (parameters) => explaining(path, () => statement.all(...(parameters as SQLInputValue[]))),
        run: (parameters) => explaining(path, () => statement.run(...(parameters as SQLInputValue[]))),
        iterate: (parameters) => statement.iterate(...(parameters as SQLInputValue[])),
      };
      prepared.set(sql, made);
      return made;
    },
    close: () => {
      database.close();
    },
  };
}

function explaining<Result>(path: string, run: () => Result): Result {
  try {
    return run();
  } catch (error) {
    throw explained(error, path);
  }
}

/** SQLite's primary result codes, https://sqlite.org/rescode.html: what a machine does, not what a program does wrong. */
const BUSY = 5;
const READONLY = 8;
const IOERR = 10;
const CORRUPT = 11;
const FULL = 13;
const CANTOPEN = 14;
const NOTADB = 26;

/** The error in words for the operator, when the file or its disk is to blame. */
export function explained(error: unknown, path: string): unknown {
  if (!(error instanceof Error) || !('errcode' in error) || typeof error.errcode !== 'number') return error;
  switch (error.errcode & 0xff) {
    case CORRUPT:
    case NOTADB:
      return damaged(path, error.message, error);
    case BUSY:
    case READONLY:
    case IOERR:
    case FULL:
    case CANTOPEN:
      return new HoldfastError(
        'STATE_UNAVAILABLE',
        `The database ${path} cannot be used just now: ${error.message}. Look at its disk.`,
        { cause: error },
      );
    default:
      return error;
  }
}

export function damaged(path: string, detail: string, cause?: unknown): HoldfastError {
  return new HoldfastError(
    'STATE_UNUSABLE',
    `The database ${path} is damaged (${detail}). Put its latest copy in its place: see docs/state.md.`,
    { cause },
  );
}
