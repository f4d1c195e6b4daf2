import { setTimeout as sleep } from 'node:timers/promises';
import { isDeepStrictEqual } from 'node:util';
import { HoldfastError, toStatus } from '@holdfast/common/errors.ts';
import type { Logger } from '@holdfast/common/logger.ts';
import type { KeysProgress } from '@holdfast/proto/holdfast/v1/event.ts';
import type { Repositories } from '../fleet/repositories.ts';
import { escrowOf } from '../keys/escrow.ts';
import type { Keys } from '../keys/keys.ts';
import { retireKeys } from '../keys/retire.ts';
import { createRewrapper, type Rewrapper } from '../keys/rewrap.ts';
import { backupsLeft, keyWork } from '../keys/work.ts';
import type { Store } from '../store/store.ts';
import type { Settings } from '../zones/settings.ts';
import type { ActiveOperation, Journal } from './journal.ts';
import { cancelled } from './judge.ts';
import { newerEpoch } from './newer-epoch.ts';

const SECOND = 1_000;
const FIRST_RETRY_MS = 0.25 * SECOND;
/** A repository that fails is asked again after twice the time of before, up to this. */
const LAST_RETRY_MS = 60 * SECOND;
/** What others do (running backups, a wish to cancel) is looked for so often. */
const LOOK_MS = SECOND;
/** What is under way when it is cancelled may end, but a repository that hangs is not waited for. */
const CANCEL_GRACE_MS = 2 * SECOND;

export interface CarryOutKeysParts {
  readonly store: Store;
  readonly settings: Settings;
  readonly journal: Journal;
  readonly repositories: Repositories;
  readonly keys: Keys;
  readonly now: () => Date;
  readonly logger: Logger;
  readonly stopping: AbortSignal;
  /** What is under way in repositories, by their names: also of an operation that was cancelled and did not wait for it. */
  readonly keyTurns: Map<string, Promise<void>>;
}

/** When a repository is tried again, and how long it has failed. */
interface Patience {
  nextMs: number;
  delayMs: number;
}

/**
 * Brings the key files in all repositories of a zone to what they should be, each repository at its own pace: one that does
 * not answer is tried again until it does. Everything that is done is noted at once, so that it goes on where it was left.
 */
export async function carryOutKeys(parts: CarryOutKeysParts, active: ActiveOperation): Promise<void> {
  const { store, settings, journal, now, stopping, keyTurns: turns } = parts;
  const { operation } = active;
  const { id, zone } = operation;
  if (!(await journal.noteStart(id)) && !active.startSent) return;
  if (operation.lastSequence === 0n) {
    await journal.append(id, { event: { $case: 'accepted', value: { stages: [] } }, time: now() });
  }
  const rewrapper = createRewrapper({
    ...parts,
    zone,
    correlationId: operation.correlationId,
    requireLed: async () => {
      const led = await journal.active(id);
      if (led !== undefined) return led.fencingEpoch;
      throw new HoldfastError('STALE_EPOCH', 'Another controller updates the key files now.');
    },
    warn: async (reason, message) => {
      const value = { reason, message, target: '' };
      await journal.append(id, { event: { $case: 'warning', value }, time: now() });
    },
  });
  const own = new Set<Promise<void>>();
  const patience = new Map<string, Patience>();
  let told: KeysProgress | undefined = operation.keysProgress;
  try {
    while (!stopping.aborted) {
      const led = await journal.active(id);
      if (led === undefined) return;
      if (led.cancelWanted) {
        await Promise.race([Promise.all(own), sleep(CANCEL_GRACE_MS)]);
        await journal.append(id, { event: { $case: 'failed', value: toStatus(cancelled()) }, time: now() });
        return;
      }
      const work = await keyWork(store.db, zone);
      const left = await backupsLeft(store.db, zone, escrowOf(await settings.resolveIn(store.db, zone)).id);
      const progress = progressOf(told, left, work);
      if (!isDeepStrictEqual(progress, told)) {
        told = progress;
        await journal.append(id, { event: { $case: 'keysProgress', value: progress }, time: now() });
      }
      if (work.length === 0) {
        if (await conclude(parts, led, progress)) return;
        continue;
      }
      const names = [...new Set(work.map((each) => each.repository))];
      for (const repository of names) {
        const { nextMs } = patience.get(repository) ?? { nextMs: 0 };
        if (turns.has(repository) || nextMs > performance.now()) continue;
        const turn = takeTurn(parts, id, rewrapper, repository, patience).finally(() => {
          turns.delete(repository);
          own.delete(turn);
        });
        turns.set(repository, turn);
        own.add(turn);
      }
      const busy = names.flatMap((repository) => turns.get(repository) ?? []);
      await Promise.race([
        ...busy,
        sleep(busy.length > 0 ? LOOK_MS : shortestWait(patience), undefined, { signal: stopping }).catch(
          () => undefined,
        ),
      ]);
    }
  } finally {
    await Promise.all(own);
  }
}

/** One step in a repository, and when it is its turn again. What keeps it from its end is noted. */
async function takeTurn(
  { store, journal, logger }: CarryOutKeysParts,
  operationId: string,
  rewrapper: Rewrapper,
  repository: string,
  patience: Map<string, Patience>,
): Promise<void> {
  const own = patience.get(repository) ?? { nextMs: 0, delayMs: FIRST_RETRY_MS };
  patience.set(repository, own);
  let message = '';
  let newer: bigint | undefined;
  try {
    const waitsFor = await rewrapper.step(repository);
    own.delayMs = FIRST_RETRY_MS;
    own.nextMs = waitsFor === undefined ? 0 : performance.now() + LOOK_MS;
    message = waitsFor ?? '';
  } catch (error) {
    newer = newerEpoch(error);
    own.nextMs = performance.now() + own.delayMs;
    own.delayMs = Math.min(2 * own.delayMs, LAST_RETRY_MS);
    if (!(error instanceof HoldfastError))
      logger.error('key files could not be updated', { repository, error });
    message =
      error instanceof HoldfastError
        ? error.message
        : 'A bug of Holdfast; the log of the controller has more.';
  }
  try {
    if (newer !== undefined) await journal.raiseEpoch(operationId, newer);
    await store.transact((trx) =>
      trx
        .updateTable('key_files')
        .set({ message })
        .where('repository', '=', repository)
        .where('message', '!=', message)
        .execute(),
    );
  } catch (error) {
    logger.warn('what a repository waits for was not noted', { repository, error });
  }
}

/** Retires what is spent and ends the operation; false when more has come. */
async function conclude(
  { store, journal, now }: CarryOutKeysParts,
  { operation }: ActiveOperation,
  progress: KeysProgress,
): Promise<boolean> {
  const { id, zone } = operation;
  await retireKeys(store, zone, now());
  const retired = await store.db
    .selectFrom('keys')
    .select('id')
    .where('zone', '=', zone)
    .where('retire_time', '>=', (operation.createTime ?? new Date(0)).toISOString())
    .execute();
  const value = { backupCount: progress.doneCount, retiredKeyIds: retired.map((row) => row.id) };
  try {
    await journal.append(id, {
      event: { $case: 'completed', value: { result: { $case: 'keys', value } } },
      time: now(),
    });
    return true;
  } catch (error) {
    if (error instanceof HoldfastError && error.reason === 'IN_USE') return false;
    throw error;
  }
}

function progressOf(
  before: KeysProgress | undefined,
  left: number,
  work: readonly { readonly repository: string; readonly message: string }[],
): KeysProgress {
  const pending = new Map(work.map(({ repository, message }) => [repository, message]));
  const done = before?.doneCount ?? 0n;
  const known = (before?.totalCount ?? 0n) - done;
  const total = BigInt(left) > known ? done + BigInt(left) : (before?.totalCount ?? 0n);
  return {
    doneCount: total - BigInt(left),
    totalCount: total,
    pending: [...pending].map(([repository, message]) => ({ repository, message })),
  };
}

function shortestWait(patience: ReadonlyMap<string, Patience>): number {
  const waits = [...patience.values()].map(({ nextMs }) => nextMs - performance.now());
  return Math.max(1, Math.min(LOOK_MS, ...waits));
}
