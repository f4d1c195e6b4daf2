import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { sql } from 'kysely';
import { HoldfastError } from '@holdfast/common/errors.ts';
import type { Logger } from '@holdfast/common/logger.ts';
import type { Store, Trx } from '../store/store.ts';

/** A controller that has not renewed its lease for this long leads no more. */
const LEASE_MS = 6_000;
const RENEW_MS = 1_500;
/** So many operations are taken over in one transaction. */
const CLAIM = 500;

/**
 * Which of the controllers on one database leads an operation: the one whose name stands in its row, for as long as that
 * one renews its lease. Others take over what it leads when it does not.
 */
export interface Leadership {
  /** The name under which this controller leads; another one after its lease ran out. */
  readonly name: string;
  /** @throws HoldfastError STATE_UNAVAILABLE when others have been told that this controller is gone */
  require(trx: Trx): Promise<void>;
  /** Begins to lead, and takes over what has no leader, now and whenever there is something. */
  begin(): Promise<void>;
  /** Lets others take over. */
  end(): Promise<void>;
}

export function createLeadership(parts: {
  readonly store: Store;
  readonly logger: Logger;
  /** Operations were taken over. */
  readonly onTaken: (operationIds: readonly string[]) => void;
  /** The lease ran out: what was led until now is others'. */
  readonly onLost: () => void;
}): Leadership {
  const { store, logger, onTaken, onLost } = parts;
  const stop = new AbortController();
  let name: string = randomUUID();
  let kept: Promise<void> | undefined;

  const enlist = async (): Promise<void> => {
    await store.transact(async (trx) => {
      // Where no other can be, whoever was there before is gone.
      if (!store.shared) await trx.updateTable('controllers').set({ lease_until_ms: 0 }).execute();
      await trx
        .insertInto('controllers')
        .values({ id: name, lease_until_ms: store.shared ? leaseEnd(store) : Number.MAX_SAFE_INTEGER })
        .execute();
    });
  };
  const renew = async (): Promise<void> => {
    const { numUpdatedRows } = await store.db
      .updateTable('controllers')
      .set({ lease_until_ms: leaseEnd(store) })
      .where('id', '=', name)
      .where('lease_until_ms', '>=', store.clockMs)
      .executeTakeFirst();
    if (numUpdatedRows > 0n) return;
    logger.warn('the lease ran out; what this controller led may be led by another one now');
    name = randomUUID();
    onLost();
    await enlist();
  };
  const takeOver = async (): Promise<void> => {
    while (!stop.signal.aborted) {
      const ended = await store.db
        .selectFrom('controllers')
        .select('id')
        .where('lease_until_ms', '<', store.clockMs)
        .execute();
      if (ended.length === 0) return;
      const gone = ended.map(({ id }) => id);
      const taken = await store.transact((trx) => claim(store, trx, name, gone));
      if (taken.length === 0) return;
      logger.info('operations taken over', { operations: taken.length });
      onTaken(taken);
    }
  };
  const keep = async (): Promise<void> => {
    while (true) {
      await sleep(RENEW_MS, undefined, { signal: stop.signal }).catch(() => undefined);
      if (stop.signal.aborted) return;
      try {
        await renew();
        await takeOver();
      } catch (error) {
        logger.warn('the lease was not renewed', { error });
      }
    }
  };

  return {
    get name() {
      return name;
    },
    require: async (trx) => {
      const found = await trx
        .selectFrom('controllers')
        .select('id')
        .where('id', '=', name)
        .executeTakeFirst();
      if (found !== undefined) return;
      throw new HoldfastError(
        'STATE_UNAVAILABLE',
        'This controller did not reach the database for a while, and begins anew; try again.',
      );
    },
    begin: async () => {
      await enlist();
      await takeOver();
      if (store.shared) kept = keep();
    },
    end: async () => {
      stop.abort();
      await kept;
      await store.db
        .updateTable('controllers')
        .set({ lease_until_ms: 0 })
        .where('id', '=', name)
        .execute()
        .catch((error: unknown) => {
          logger.warn('others take over only when the lease runs out', { error });
        });
    },
  };
}

function leaseEnd(store: Store) {
  return sql<number>`${store.clockMs} + ${LEASE_MS}`;
}

/** Takes our share of what those that are gone led; forgets them when nothing is left of that. */
async function claim(
  store: Store,
  trx: Trx,
  name: string,
  gone: readonly string[],
): Promise<readonly string[]> {
  const orphans = trx.selectFrom('operations').where('active', '=', 1).where('leader', 'in', gone);
  const { left } = await orphans
    .select((of) => of.fn.countAll<number | bigint>().as('left'))
    .executeTakeFirstOrThrow();
  if (Number(left) === 0) {
    await trx.deleteFrom('controllers').where('id', 'in', gone).execute();
    return [];
  }
  const { leaders } = await trx
    .selectFrom('controllers')
    .select((of) => of.fn.countAll<number | bigint>().as('leaders'))
    .where('lease_until_ms', '>=', store.clockMs)
    .executeTakeFirstOrThrow();
  const share = Math.ceil(Number(left) / Math.max(1, Number(leaders)));
  const ours = await orphans.select('id').orderBy('create_time').limit(Math.min(share, CLAIM)).execute();
  const ids = ours.map(({ id }) => id);
  await trx
    .updateTable('operations')
    .set((of) => ({ leader: name, fencing_epoch: of('fencing_epoch', '+', 1) }))
    .where('id', 'in', ids)
    .execute();
  return ids;
}
