import { chmodSync, closeSync, mkdirSync, openSync } from 'node:fs';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { Kysely, SqliteDialect, type Transaction } from 'kysely';
import { HoldfastError } from '@holdfast/common/errors.ts';
import type { Secret } from '@holdfast/common/secret.ts';
import { lockState } from './lock.ts';
import { migrate } from './migrations.ts';
import { asKyselyDatabase } from './node-sqlite.ts';
import type { Tables } from './schema.ts';
import { createSealer, type Sealer } from './sealer.ts';

export type Db = Kysely<Tables>;
export type Trx = Transaction<Tables>;

const CHECK_IDENTITY = 'controller_state.master_key_check';
const CHECK_TEXT = 'holdfast';

/** What the controller remembers. */
export interface Store {
  readonly db: Db;
  readonly sealer: Sealer;
  /** Larger with every start, so that an agent can tell an old controller from the present one. */
  readonly fencingEpoch: bigint;
  close(): Promise<void>;
}

/**
 * Opens the state directory, making it (0700) and its database (0600) when they are not there.
 *
 * @throws HoldfastError IN_USE when another controller has it, STATE_UNUSABLE for a newer schema or another master key.
 */
export async function openStore(stateDirectory: string, masterKey: Secret): Promise<Store> {
  const sealer = createSealer(masterKey);
  mkdirSync(stateDirectory, { recursive: true, mode: 0o700 });
  chmodSync(stateDirectory, 0o700);
  const lock = lockState(privateFile(stateDirectory, 'controller.lock'));
  try {
    const db = openDatabase(privateFile(stateDirectory, 'controller.sqlite'));
    try {
      await migrate(db);
      const fencingEpoch = await beginEpoch(db, sealer);
      return {
        db,
        sealer,
        fencingEpoch,
        close: async () => {
          await db.destroy();
          lock.release();
        },
      };
    } catch (error) {
      await db.destroy();
      throw error;
    }
  } catch (error) {
    lock.release();
    throw error;
  }
}

function openDatabase(path: string): Db {
  const database = new DatabaseSync(path, { timeout: 5_000, enableForeignKeyConstraints: true });
  database.exec('pragma journal_mode = wal');
  database.exec('pragma synchronous = full');
  return new Kysely<Tables>({ dialect: new SqliteDialect({ database: asKyselyDatabase(database) }) });
}

/** SQLite gives its side files the mode of the database. */
function privateFile(directory: string, name: string): string {
  const path = join(directory, name);
  closeSync(openSync(path, 'a', 0o600));
  chmodSync(path, 0o600);
  return path;
}

async function beginEpoch(db: Db, sealer: Sealer): Promise<bigint> {
  return await db.transaction().execute(async (trx) => {
    const before = await trx.selectFrom('controller_state').selectAll().executeTakeFirst();
    if (before === undefined) {
      const check = sealer.seal(CHECK_TEXT, CHECK_IDENTITY);
      await trx
        .insertInto('controller_state')
        .values({ id: 1, fencing_epoch: 1, master_key_check_sealed: check })
        .execute();
      return 1n;
    }
    try {
      sealer.open(before.master_key_check_sealed, CHECK_IDENTITY);
    } catch (cause) {
      throw new HoldfastError('STATE_UNUSABLE', 'The master key is not the one of this database.', { cause });
    }
    const epoch = before.fencing_epoch + 1;
    await trx.updateTable('controller_state').set({ fencing_epoch: epoch }).execute();
    return BigInt(epoch);
  });
}
