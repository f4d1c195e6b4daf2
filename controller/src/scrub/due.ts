import { HoldfastError } from '@holdfast/common/errors.ts';
import { OperationKind, OperationOrigin, OperationState } from '@holdfast/proto/holdfast/v1/operation.ts';
import { unprovedSinceColumn, type ProvableLevel } from '../catalog/proofs.ts';
import type { Db, Trx } from '../store/store.ts';

const MINUTE = 60_000;
const HOUR = 60 * MINUTE;
/** After a scrub that came to nothing its repository rests, twice as long after each further one. */
const FIRST_REST_MS = MINUTE;
const LONGEST_REST_MS = HOUR;
/** Who cancels a scrub wants quiet. */
const REST_AFTER_CANCEL_MS = HOUR;
/** The backup itself may be why: others come first. */
const POSTPONE_MS = 24 * HOUR;

/** How a scrub ended; a finding is a finding, whether it is good or bad. */
export type ScrubEnd =
  { readonly kind: 'found' | 'cancelled' } | { readonly kind: 'failed'; readonly message: string };

/**
 * The backup of a repository that has not been proved for longest at a level, among those that are unproved since before a
 * time. Those that are known to be damaged, are postponed, or are being verified or deleted are left out.
 */
export async function oldestDue(
  db: Db,
  given: {
    readonly repository: string;
    readonly level: ProvableLevel;
    readonly unprovedBefore: Date;
    readonly now: Date;
  },
): Promise<string | undefined> {
  const { repository, level, unprovedBefore, now } = given;
  const since = unprovedSinceColumn(level);
  const row = await db
    .selectFrom('backups')
    .select('id')
    .where('repository', '=', repository)
    .where('damage_time', 'is', null)
    .where(since, '<', unprovedBefore.toISOString())
    .where((where) =>
      where.or([
        where('scrub_postponed_until', 'is', null),
        where('scrub_postponed_until', '<=', now.toISOString()),
      ]),
    )
    .where((where) =>
      where.not(
        where.exists(
          where
            .selectFrom('operations')
            .select('operations.id')
            .where('operations.active', '=', 1)
            .whereRef('operations.backup_id', '=', 'backups.id')
            .where('operations.kind', 'in', [
              OperationKind.OPERATION_KIND_VERIFY_BACKUP,
              OperationKind.OPERATION_KIND_DELETE_BACKUP,
            ]),
        ),
      ),
    )
    .orderBy(since)
    .orderBy('id')
    .limit(1)
    .executeTakeFirst();
  return row?.id;
}

/** A scrub that has not ended. */
export interface ActiveScrub {
  readonly id: string;
  readonly zone: string;
  readonly repository: string;
  /** Whether it waits for its turn. */
  readonly waits: boolean;
}

/** All scrubs that have not ended, but for those on hosts that do not answer, which keep nobody. */
export async function activeScrubs(db: Db | Trx): Promise<readonly ActiveScrub[]> {
  const rows = await db
    .selectFrom('operations')
    .select(['id', 'zone', 'repository', 'start_sent', 'admitted'])
    .where('active', '=', 1)
    .where('origin', '=', OperationOrigin.OPERATION_ORIGIN_SCRUB)
    .where('state', '!=', OperationState.OPERATION_STATE_INTERRUPTED)
    .execute();
  return rows.map(({ id, zone, repository, start_sent: started, admitted }) => ({
    ...{ id, zone, repository, waits: started === 0 && admitted === 0 },
  }));
}

/** @throws HoldfastError IN_USE while another scrub of the repository has not ended */
export async function refuseSecondScrub(trx: Trx, repository: string): Promise<void> {
  const other = (await activeScrubs(trx)).find((each) => each.repository === repository);
  if (other === undefined) return;
  throw new HoldfastError('IN_USE', `Operation ${other.id} scrubs repository ${repository}.`, {
    metadata: { operation: other.id },
  });
}

/** Notes how a scrub ended, in the transaction that ends its operation. */
export async function noteScrubEnd(
  trx: Trx,
  { repository, backupId }: { readonly repository: string; readonly backupId: string },
  end: ScrubEnd,
  now: Date,
): Promise<void> {
  switch (end.kind) {
    case 'found':
      await setRest(trx, repository, { scrub_failures: 0, scrub_rest_until: null, scrub_message: '' });
      return;
    case 'cancelled':
      await setRest(trx, repository, {
        scrub_rest_until: later(now, REST_AFTER_CANCEL_MS),
        scrub_message: 'A scrub was cancelled.',
      });
      return;
    case 'failed':
      await postpone(trx, backupId, now);
      await rest(trx, repository, end.message, now);
  }
}

/** Lets no scrub of a repository begin for a while, since the last one came to nothing. */
export async function rest(trx: Trx, repository: string, message: string, now: Date): Promise<void> {
  const before = await trx
    .selectFrom('repositories')
    .select(['scrub_failures', 'scrub_rest_until'])
    .where('name', '=', repository)
    .executeTakeFirst();
  if (before === undefined) return;
  // Another controller has met the same failure.
  if (before.scrub_rest_until !== null && before.scrub_rest_until > now.toISOString()) return;
  const restMs = Math.min(FIRST_REST_MS * 2 ** Math.min(before.scrub_failures, 30), LONGEST_REST_MS);
  await setRest(trx, repository, {
    scrub_failures: before.scrub_failures + 1,
    scrub_rest_until: later(now, restMs),
    scrub_message: message,
  });
}

/** Lets the next scrub of a repository begin: the last one was cancelled for what has nothing to do with scrubs. */
export async function endRest(trx: Trx, repository: string): Promise<void> {
  await setRest(trx, repository, { scrub_rest_until: null, scrub_message: '' });
}

/** Lets other backups come first for a day. */
export async function postpone(trx: Trx, backupId: string, now: Date): Promise<void> {
  await trx
    .updateTable('backups')
    .set({ scrub_postponed_until: later(now, POSTPONE_MS) })
    .where('id', '=', backupId)
    .execute();
}

async function setRest(
  trx: Trx,
  repository: string,
  values: {
    readonly scrub_failures?: number;
    readonly scrub_rest_until: string | null;
    readonly scrub_message: string;
  },
): Promise<void> {
  await trx.updateTable('repositories').set(values).where('name', '=', repository).execute();
}

function later(now: Date, byMs: number): string {
  return new Date(now.getTime() + byMs).toISOString();
}
