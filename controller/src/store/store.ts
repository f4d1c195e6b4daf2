import type { Kysely, RawBuilder, Transaction } from 'kysely';
import { HoldfastError } from '@holdfast/common/errors.ts';
import type { Secret } from '@holdfast/common/secret.ts';
import { isOutdated, migrate } from './migrations.ts';
import type { Notices } from './notices.ts';
import { openPostgres } from './postgres.ts';
import type { Tables } from './schema.ts';
import { createSealer, type Sealer } from './sealer.ts';
import { openSqlite } from './sqlite.ts';
import { batchTransactions, type Transact } from './transactions.ts';

export type Db = Kysely<Tables>;
export type Trx = Transaction<Tables>;

const CHECK_IDENTITY = 'controller_state.master_key_check';
const CHECK_TEXT = 'holdfast';

/** Where the state lies: SQLite in a directory of this machine, or a PostgreSQL database by its connection URL. */
export type StatePlace =
  | { readonly kind: 'sqlite'; readonly directory: string }
  | { readonly kind: 'postgres'; readonly url: Secret };

/** What the controller remembers. */
export interface Store {
  /** For reading. What is written goes through `transact`. */
  readonly db: Db;
  readonly transact: Transact;
  readonly sealer: Sealer;
  readonly notices: Notices;
  /** Whether other controllers may work on the same database. */
  readonly shared: boolean;
  /** The database's clock, milliseconds since 1970: the one that all controllers go by. */
  readonly clockMs: RawBuilder<number>;
  /** Overwrites what was erased, as far as the database's files go. */
  scrub(): Promise<void>;
  close(): Promise<void>;
}

/** An open database of either kind. */
export interface Database extends Pick<Store, 'db' | 'notices' | 'shared' | 'clockMs' | 'scrub'> {
  readonly kind: StatePlace['kind'];
  /** Brings the schema up to date while no other controller works on the database; with `alone` none may until it is closed. */
  readonly prepare: (
    isOutdated: () => Promise<boolean>,
    migrate: () => Promise<void>,
    alone: boolean,
  ) => Promise<void>;
  /** Runs a body in one transaction that is isolated from all others, again when that takes it. */
  readonly begin: (body: (trx: Trx) => Promise<void>) => Promise<void>;
  /** Whether an error makes `begin` run the body again. */
  readonly mustRepeat: (error: unknown) => boolean;
  close(): Promise<void>;
}

/**
 * Opens the state, and makes it when there is none. A SQLite database is checked as a whole first.
 *
 * @throws HoldfastError IN_USE when another controller has it, or one of another version, STATE_UNUSABLE for a newer schema, another master key or a
 *   damaged database, STATE_UNAVAILABLE when PostgreSQL does not answer, INVALID_REQUEST for a bad key or URL
 * @param options.alone no other controller works on it, or begins to, until it is closed: IN_USE otherwise
 */
export async function openStore(
  place: StatePlace,
  masterKey: Secret,
  options: { readonly alone?: boolean } = {},
): Promise<Store> {
  const sealer = createSealer(masterKey);
  const database = place.kind === 'sqlite' ? openSqlite(place.directory) : await openPostgres(place.url);
  const { db, notices, shared, clockMs, scrub } = database;
  try {
    await database.prepare(
      () => isOutdated(database),
      () => migrate(database),
      options.alone ?? false,
    );
    await checkMasterKey(database, sealer);
    return {
      ...{ db, notices, shared, clockMs, scrub, sealer },
      transact: batchTransactions(database.begin, database.mustRepeat, !shared),
      close: () => database.close(),
    };
  } catch (error) {
    await database.close();
    throw error;
  }
}

async function checkMasterKey({ begin }: Database, sealer: Sealer): Promise<void> {
  await begin(async (trx) => {
    const before = await trx.selectFrom('controller_state').selectAll().executeTakeFirst();
    if (before === undefined) {
      await trx
        .insertInto('controller_state')
        .values({ id: 1, master_key_check_sealed: sealCheck(sealer) })
        .execute();
      return;
    }
    try {
      sealer.open(before.master_key_check_sealed, CHECK_IDENTITY);
    } catch (cause) {
      throw new HoldfastError('STATE_UNUSABLE', 'The master key is not the one of this database.', { cause });
    }
  });
}

/** The known text under a master key, by which a wrong key is found at start. */
export function sealCheck(sealer: Sealer): Uint8Array {
  return sealer.seal(CHECK_TEXT, CHECK_IDENTITY);
}
