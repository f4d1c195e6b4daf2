import { randomUUID } from 'node:crypto';
import { fromStatus, HoldfastError } from '@holdfast/common/errors.ts';
import type { Logger } from '@holdfast/common/logger.ts';
import { VerifyBackupRequest } from '@holdfast/proto/holdfast/v1/backup.ts';
import { OperationOrigin, OperationState, type Operation } from '@holdfast/proto/holdfast/v1/operation.ts';
import { isDamage, provableLevel } from '../catalog/proofs.ts';
import type { BackupWorkParts } from '../operations/backup-work.ts';
import type { Elsewhere } from '../operations/elsewhere.ts';
import type { Journal } from '../operations/journal.ts';
import { isEnded } from '../operations/reduce.ts';
import { cancelOperation } from '../operations/steer.ts';
import { verifyBackup } from '../operations/verify-backup.ts';
import { activeScrubs, oldestDue, postpone, refuseSecondScrub, rest } from './due.ts';
import { scrubPlan, type ScrubPlan } from './plan.ts';

/** Windows open and proofs grow old at their own pace; what ends or is set is looked at at once. */
export const SCRUB_LOOK_MS = 60_000;
/** So many backups of a repository that cannot be verified are passed over in one look. */
const PASSED_OVER = 100;

/** Verifies backups by and by: of each repository the one whose proof is oldest, one at a time. */
export interface Scrubber {
  start(): void;
  /** Looks again: a setting has changed. */
  changed(): void;
  /** An operation is not driven here any more: it may have been a scrub that has ended. */
  left(operationId: string): void;
  /** Begins nothing more, and waits for what is being begun. */
  close(): Promise<void>;
}

export interface ScrubberParts extends BackupWorkParts {
  readonly journal: Journal;
  readonly elsewhere: Elsewhere;
  readonly now: () => Date;
  readonly logger: Logger;
  readonly lookEveryMs: number;
  /** Counts a scrub that has ended. */
  readonly count: (outcome: ScrubOutcome) => void;
}

export type ScrubOutcome = 'intact' | 'damaged' | 'failed' | 'cancelled';

/**
 * Several controllers look, each by itself: the transaction that stores a scrub refuses a second one of the repository, and
 * whoever stored it leads it, as any operation.
 */
export function createScrubber(parts: ScrubberParts): Scrubber {
  const { store, journal, logger } = parts;
  let looking: Promise<void> | undefined;
  let again = false;
  let closed = false;
  let timer: NodeJS.Timeout | undefined;

  const changed = (): void => {
    if (closed) return;
    if (looking !== undefined) {
      again = true;
      return;
    }
    looking = look(parts, () => closed)
      .catch((error: unknown) => {
        if (!closed) logger.warn('it was not looked which backups are to be scrubbed', { error });
      })
      .finally(() => {
        looking = undefined;
        if (again) {
          again = false;
          changed();
        }
      });
  };
  const countEnd = async (operationId: string): Promise<void> => {
    const row = await store.db
      .selectFrom('operations')
      .select('origin')
      .where('id', '=', operationId)
      .executeTakeFirst();
    if (row?.origin !== OperationOrigin.OPERATION_ORIGIN_SCRUB) return;
    const operation = await journal.find(operationId);
    if (!isEnded(operation.state)) return;
    parts.count(outcomeOf(operation));
    changed();
  };
  return {
    start: () => {
      timer = setInterval(changed, parts.lookEveryMs);
      timer.unref();
      changed();
    },
    changed,
    left: (operationId) => {
      if (closed) return;
      countEnd(operationId).catch((error: unknown) => {
        if (!closed) logger.warn('the end of a scrub was not counted', { operationId, error });
      });
    },
    close: async () => {
      closed = true;
      clearInterval(timer);
      await looking;
    },
  };
}

function outcomeOf({ state, error }: Operation): ScrubOutcome {
  if (state === OperationState.OPERATION_STATE_SUCCEEDED) return 'intact';
  if (state === OperationState.OPERATION_STATE_CANCELLED) return 'cancelled';
  return error !== undefined && isDamage(fromStatus(error).reason) ? 'damaged' : 'failed';
}

/** Begins a scrub of each repository where one may and is due; withdraws those that waited for too long. */
async function look(parts: ScrubberParts, stopped: () => boolean): Promise<void> {
  const { store, settings, now } = parts;
  const active = await activeScrubs(store.db);
  const open = new Map<string, ScrubPlan>();
  for (const zone of await scrubbedZones(parts)) {
    const plan = scrubPlan(await settings.resolve(zone), now());
    if (plan.open) open.set(zone, plan);
  }
  for (const { id } of active.filter(({ waits, zone }) => waits && !open.has(zone)))
    await cancelOperation(parts, id);
  await Promise.all(
    [...open].map(async ([zone, plan]) => {
      for (const repository of await rested(parts, zone)) {
        if (active.some((each) => each.repository === repository)) continue;
        for (let passed = 0; passed < PASSED_OVER && !stopped(); passed += 1)
          if (await begin(parts, repository, plan)) break;
      }
    }),
  );
}

/** The zones whose backups are scrubbed. Mostly there is none, which one small query tells. */
async function scrubbedZones({ store: { db } }: ScrubberParts): Promise<readonly string[]> {
  const set = await db
    .selectFrom('settings')
    .select(['zone', 'value'])
    .where('key', '=', 'nas.backup.scrub.enabled')
    .execute();
  const values = new Map(set.map(({ zone, value }) => [zone, value]));
  if (![...values.values()].includes('true')) return [];
  const zones = await db.selectFrom('zones').select('name').orderBy('name').execute();
  return zones.map(({ name }) => name).filter((name) => (values.get(name) ?? values.get('')) === 'true');
}

/** The repositories of a zone that do not rest. */
async function rested({ store, now }: ScrubberParts, zone: string): Promise<readonly string[]> {
  const rows = await store.db
    .selectFrom('repositories')
    .select('name')
    .where('zone', '=', zone)
    .where((where) =>
      where.or([where('scrub_rest_until', 'is', null), where('scrub_rest_until', '<=', now().toISOString())]),
    )
    .orderBy('name')
    .execute();
  return rows.map(({ name }) => name);
}

/**
 * Begins the scrub of the backup whose turn it is.
 *
 * @returns false when that one cannot be verified, and it is another's turn
 */
async function begin(parts: ScrubberParts, repository: string, plan: ScrubPlan): Promise<boolean> {
  const { store, catalog, now, logger } = parts;
  const { level, unprovedBefore, samplePercent, bandwidthLimitMibps } = plan;
  const backupId = await oldestDue(store.db, { repository, level, unprovedBefore, now: now() });
  if (backupId === undefined) return true;
  const correlationId = randomUUID();
  const log = logger.child({ correlationId, backupId, repository });
  try {
    const { backup } = await catalog.find(backupId);
    const provable = backup.manifest === undefined ? 'metadata' : provableLevel(backup.manifest, level);
    const operation = await verifyBackup(
      parts,
      VerifyBackupRequest.fromPartial({ backupId, level: provable, samplePercent, bandwidthLimitMibps }),
      correlationId,
      {
        origin: OperationOrigin.OPERATION_ORIGIN_SCRUB,
        guard: (trx) => refuseSecondScrub(trx, repository),
      },
    );
    log.info('scrub begun', { operationId: operation.id, level: provable });
    return true;
  } catch (error) {
    return await passOver(parts, { repository, backupId }, error, log);
  }
}

/** @returns whether the repository is left alone for now */
async function passOver(
  { store, now }: ScrubberParts,
  { repository, backupId }: { readonly repository: string; readonly backupId: string },
  error: unknown,
  log: Logger,
): Promise<boolean> {
  if (!(error instanceof HoldfastError)) throw error;
  switch (error.reason) {
    // Another controller was first, or somebody deletes the backup.
    case 'IN_USE':
    case 'BACKUP_NOT_FOUND':
      return true;
    case 'STATE_UNAVAILABLE':
      throw error;
    case 'KEY_MISSING':
    case 'KEY_WRONG':
    case 'PASSPHRASE_MISSING':
      log.warn('the backup cannot be scrubbed', { detail: error.message });
      await store.transact((trx) => postpone(trx, backupId, now()));
      return false;
    default:
      log.warn('the repository cannot be scrubbed', { detail: error.message });
      await store.transact((trx) => rest(trx, repository, error.message, now()));
      return true;
  }
}
