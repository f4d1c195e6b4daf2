import type { Kysely, Transaction } from 'kysely';
import { HoldfastError } from '@holdfast/common/errors.ts';
import type { Secret } from '@holdfast/common/secret.ts';
import { migrate } from './migrations.ts';
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
  /** Larger with every start, so that an agent can tell an old controller from the present one. */
  readonly fencingEpoch: bigint;
  close(): Promise<void>;
}

/** An open database of either kind, which no other controller works on. */
export interface Database {
  readonly kind: StatePlace['kind'];
  readonly db: Db;
  /** Runs a body in one transaction that is isolated from all others, again when that takes it. */
  readonly begin: (body: (trx: Trx) => Promise<void>) => Promise<void>;
  /** Whether an error makes `begin` run the body again. */
  readonly mustRepeat: (error: unknown) => boolean;
  close(): Promise<void>;
}

/**
 * Opens the state, and makes it when there is none. A SQLite database is checked as a whole first.
 *
 * @throws HoldfastError IN_USE when another controller has it, STATE_UNUSABLE for a newer schema, another master key or a
 *   damaged database, STATE_UNAVAILABLE when PostgreSQL does not answer, INVALID_REQUEST for a bad key or URL
 */
export async function openStore(place: StatePlace, masterKey: Secret): Promise<Store> {
  const sealer = createSealer(masterKey);
  const database = place.kind === 'sqlite' ? openSqlite(place.directory) : await openPostgres(place.url);
  const { db } = database;
  try {
    await migrate(database);
    const fencingEpoch = await beginEpoch(database, sealer);
    return {
      db,
      sealer,
      fencingEpoch,
      transact: batchTransactions(
        (body) =>
          database.begin(async (trx) => {
            await refuseOldEpoch(trx, fencingEpoch);
            await body(trx);
          }),
        database.mustRepeat,
      ),
      close: () => database.close(),
    };
  } catch (error) {
    await database.close();
    throw error;
  }
}

async function beginEpoch({ begin }: Database, sealer: Sealer): Promise<bigint> {
  let epoch = 1;
  await begin(async (trx) => {
    const before = await trx.selectFrom('controller_state').selectAll().executeTakeFirst();
    if (before === undefined) {
      const check = sealer.seal(CHECK_TEXT, CHECK_IDENTITY);
      await trx
        .insertInto('controller_state')
        .values({ id: 1, fencing_epoch: epoch, master_key_check_sealed: check })
        .execute();
      return;
    }
    try {
      sealer.open(before.master_key_check_sealed, CHECK_IDENTITY);
    } catch (cause) {
      throw new HoldfastError('STATE_UNUSABLE', 'The master key is not the one of this database.', { cause });
    }
    epoch = before.fencing_epoch + 1;
    await trx.updateTable('controller_state').set({ fencing_epoch: epoch }).execute();
  });
  return BigInt(epoch);
}

/** A controller that was cut off from its database, and replaced meanwhile, must not write into it. */
async function refuseOldEpoch(trx: Trx, ours: bigint): Promise<void> {
  const found = await trx.selectFrom('controller_state').select('fencing_epoch').executeTakeFirst();
  if (found?.fencing_epoch === Number(ours)) return;
  throw new HoldfastError(
    'STALE_EPOCH',
    'Another controller has taken the database over. Stop this one; operations go on at the other.',
  );
}
