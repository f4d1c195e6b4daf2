import { setTimeout as sleep } from 'node:timers/promises';
import { MIB } from '@holdfast/common/bytes.ts';
import type { Logger } from '@holdfast/common/logger.ts';
import { WaitReason, type OperationEvent } from '@holdfast/proto/holdfast/v1/event.ts';
import { HostState } from '@holdfast/proto/holdfast/v1/host.ts';
import type { Operation } from '@holdfast/proto/holdfast/v1/operation.ts';
import type { HostHealth } from '../fleet/host-health.ts';
import type { AgentStream } from '../operations/agent-stream.ts';
import type { Journal } from '../operations/journal.ts';
import type { Live } from '../operations/live.ts';
import type { Store, Trx } from '../store/store.ts';
import { integerOf } from '../zones/resolve.ts';
import type { Settings } from '../zones/settings.ts';
import { createDemand, type Demand } from './demand.ts';
import { divide, FLOOR } from './divide.ts';

/** How often a zone's budget is divided anew besides whenever something has happened: wishes change, and other controllers. */
const DIVIDE_EVERY_MS = 500;
/** After so long the caller is told that a backup waits for bandwidth. */
const TELL_AFTER_MS = 1_000;
/** After so long it begins with what the budget may be exceeded by, since others do not give up theirs. */
const OVERDRAW_AFTER_MS = 10_000;
/** The part by which a budget may be exceeded. */
const OVERDRAFT = 0.05;
/** In the database: no amount, or none that is known. */
const NONE = -1;

/**
 * The bandwidth that the running backups of a zone share. What each may use is stored before it is told to be more, and
 * after its agent has said that it is less: what is in force is never more than what is stored, and the sum of that is within
 * the budget, whoever dies when.
 */
export interface Budget {
  /** What a backup may use from its first byte on, bytes a second; waits until the others have made room. 0: no budget. */
  join(operation: Operation, signal: AbortSignal): Promise<number>;
  /** Takes part with a backup whose stream is open, until `unfollow`. */
  follow(operation: Operation, stream: AgentStream): void;
  unfollow(operationId: string): void;
  /** What happened in a backup that takes part. */
  note(operationId: string, event: OperationEvent): void;
  /** Leaves: the backup has ended, or is driven by another controller. */
  leave(operationId: string): void;
  /** Divides all budgets anew: a setting or a host has changed. */
  changed(): void;
  close(): void;
}

interface Member {
  readonly operation: Operation;
  readonly demand: Demand;
  /** Bytes a second; Infinity without a limit of its own. */
  ceiling: number;
  stream: AgentStream | undefined;
  /** What the agent was told last, and what it last said to be in force, bytes a second; 0 is no share. */
  sent: number | undefined;
  confirmed: number | undefined;
  /** What it may use as it is stored; undefined when nothing is. */
  granted: number | undefined;
  /** Since when it waits for room, and who waits. */
  joining: { readonly sinceMs: number; readonly resolve: (share: number) => void } | undefined;
}

export interface BudgetParts {
  readonly store: Store;
  readonly settings: Settings;
  readonly health: HostHealth;
  readonly live: Live;
  /** Says what goes on with an operation, here and to other controllers. */
  readonly tell: Journal['progress'];
  readonly now: () => Date;
  readonly logger: Logger;
}

export function createBudget(parts: BudgetParts): Budget {
  const { settings, live, now, logger } = parts;
  const members = new Map<string, Member>();
  const dividing = new Map<string, { again: boolean }>();
  let closed = false;

  const memberOf = (operation: Operation): Member => {
    const known = members.get(operation.id);
    if (known !== undefined) return known;
    const member: Member = {
      operation,
      demand: createDemand(),
      ceiling: bytesOf(operation.bandwidthLimitMibps) || Infinity,
      ...{ stream: undefined, sent: undefined, confirmed: undefined, granted: undefined, joining: undefined },
    };
    members.set(operation.id, member);
    return member;
  };
  const budgetOf = async (zone: string): Promise<number> =>
    bytesOf(integerOf(await settings.resolve(zone), 'nas.backup.bandwidth.zone.limit.mbps'));

  const redivide = async (zone: string): Promise<void> => {
    const mine = [...members.values()].filter(({ operation }) => operation.zone === zone);
    if (mine.length === 0) return;
    const budget = await budgetOf(zone);
    if (budget === 0 && mine.every(({ granted, joining }) => granted === undefined && joining === undefined))
      return;
    const shares = budget === 0 ? await endShares(parts, mine) : await grantShares(parts, zone, budget, mine);
    for (const member of mine) {
      const share = shares.get(member.operation.id);
      if (share === undefined) continue;
      if (member.joining !== undefined) {
        if (share !== 0 && share < Math.min(FLOOR, member.ceiling, budget / mine.length / 2)) continue;
        member.joining.resolve(share);
        member.joining = undefined;
      }
      if (member.stream === undefined || member.sent === share) continue;
      member.sent = share;
      member.confirmed = undefined;
      member.stream.control({ $case: 'setShare', value: { bytesPerSecond: BigInt(share) } });
    }
  };
  const divideSoon = (zone: string): void => {
    const busy = dividing.get(zone);
    if (busy !== undefined) {
      busy.again = true;
      return;
    }
    if (closed) return;
    const state = { again: false };
    dividing.set(zone, state);
    void redivide(zone)
      .catch((error: unknown) => {
        if (!closed) logger.error('the bandwidth could not be divided', { zone, error });
      })
      .finally(() => {
        dividing.delete(zone);
        if (state.again) divideSoon(zone);
      });
  };
  const changed = (): void => {
    for (const zone of new Set([...members.values()].map(({ operation }) => operation.zone)))
      divideSoon(zone);
  };
  const timer = setInterval(changed, DIVIDE_EVERY_MS);
  timer.unref();

  /** Says what it waits for when that takes a while. */
  const tellLater = async ({ id, zone }: Operation, signal: AbortSignal): Promise<void> => {
    await sleep(TELL_AFTER_MS, undefined, { signal });
    const value = {
      ...{ position: 1, reason: WaitReason.WAIT_REASON_BANDWIDTH, subject: zone },
      message: `waiting for bandwidth of zone ${zone}`,
    };
    parts.tell(id, { time: now(), event: { $case: 'queued', value } });
  };

  return {
    changed,
    join: async (operation, signal) => {
      const member = memberOf(operation);
      signal.throwIfAborted();
      const joined = new AbortController();
      const { promise, resolve, reject } = Promise.withResolvers<number>();
      member.joining = { sinceMs: now().getTime(), resolve };
      const stop = (): void => {
        member.joining = undefined;
        reject(signal.reason as Error);
      };
      signal.addEventListener('abort', stop);
      tellLater(operation, joined.signal).catch(() => undefined);
      divideSoon(operation.zone);
      try {
        const share = await promise;
        if (share > 0) parts.tell(operation.id, { time: now(), event: shareApplied(share) });
        return share;
      } finally {
        joined.abort();
        live.unqueue(operation.id);
        signal.removeEventListener('abort', stop);
      }
    },
    follow: (operation, stream) => {
      const member = memberOf(operation);
      member.stream = stream;
      member.sent = undefined;
      member.confirmed = undefined;
      divideSoon(operation.zone);
    },
    unfollow: (operationId) => {
      const member = members.get(operationId);
      if (member !== undefined) member.stream = undefined;
    },
    note: (operationId, { event }) => {
      const member = members.get(operationId);
      if (member === undefined) return;
      member.demand.note(event);
      if (event?.$case === 'shareApplied') member.confirmed = Number(event.value.bytesPerSecond);
      else if (event?.$case === 'bandwidthApplied')
        member.ceiling = bytesOf(event.value.limitMibps) || Infinity;
      else if (event?.$case === 'stageProgress') return;
      if (member.granted !== undefined) divideSoon(member.operation.zone);
    },
    leave: (operationId) => {
      const member = members.get(operationId);
      if (!members.delete(operationId) || member?.granted === undefined) return;
      divideSoon(member.operation.zone);
    },
    close: () => {
      closed = true;
      clearInterval(timer);
    },
  };
}

/**
 * Divides the budget of a zone anew, in a transaction: other controllers do so, too.
 *
 * @returns what each of ours is to be told
 */
async function grantShares(
  { store, health, now }: BudgetParts,
  zone: string,
  budget: number,
  mine: readonly Member[],
): Promise<ReadonlyMap<string, number>> {
  const lowered = mine.filter(isLowered);
  const { shares, granted } = await store.transact(async (trx) => {
    await removeEnded(trx);
    const known = new Map((await rowsOf(trx, zone)).map((row) => [row.id, row]));
    const active = await activeOf(trx, mine);
    for (const member of mine) {
      const { id } = member.operation;
      if (!active.has(id)) continue;
      const row = known.get(id);
      const before = row?.granted ?? (member.joining === undefined ? NONE : 0);
      const next = {
        granted: lowered.includes(member) ? (member.confirmed ?? before) : before,
        wanted: stored(member.demand.wanted(before > 0 ? before : Infinity)),
        ceiling: stored(member.ceiling),
      };
      await storeRow(trx, id, row, next);
    }
    // What runs on a host that is down holds nobody up; when the host is back, it is counted again.
    const sharers = (await rowsOf(trx, zone)).filter(
      ({ host }) => health.of(host).state !== HostState.HOST_STATE_DOWN,
    );
    const targets = divide(
      budget,
      sharers.map(({ id, wanted, ceiling }) => ({ id, wanted: read(wanted), ceiling: read(ceiling) })),
    );
    const sum = sharers.reduce((total, row) => total + (row.granted === NONE ? Infinity : row.granted), 0);
    let free = budget - sum;
    // One that was cancelled before it began waits for nothing.
    const gone = mine.filter(({ operation }) => !active.has(operation.id));
    const result = new Map(gone.map(({ operation }) => [operation.id, 0]));
    const after = new Map(sharers.map((row) => [row.id, row.granted]));
    for (const row of sharers.toSorted((one, other) => one.granted - other.granted)) {
      const member = mine.find(({ operation }) => operation.id === row.id);
      const target = targets.get(row.id) ?? 0;
      if (member === undefined) continue;
      const overdraft =
        member.joining !== undefined && now().getTime() - member.joining.sinceMs >= OVERDRAW_AFTER_MS
          ? budget * OVERDRAFT
          : 0;
      const raise = Math.floor(Math.min(target - row.granted, free + overdraft));
      if (row.granted !== NONE && raise > 0) {
        free -= raise;
        after.set(row.id, row.granted + raise);
        await trx
          .updateTable('bandwidth_shares')
          .set({ granted: row.granted + raise })
          .where('operation_id', '=', row.id)
          .execute();
        result.set(row.id, row.granted + raise);
      } else if (row.granted !== 0 || member.joining === undefined) {
        result.set(row.id, row.granted === NONE ? target : Math.min(target, row.granted));
      }
    }
    return { shares: result, granted: after };
  });
  for (const member of mine) member.granted = granted.get(member.operation.id) ?? member.granted ?? NONE;
  return shares;
}

/** There is no budget any more: what was shared is unlimited once the agents have said so. */
async function endShares(
  { store }: BudgetParts,
  mine: readonly Member[],
): Promise<ReadonlyMap<string, number>> {
  const free = mine.filter(({ confirmed, joining }) => confirmed === 0 || joining !== undefined);
  if (free.length > 0) {
    const ids = free.map(({ operation }) => operation.id);
    const left = await store.db
      .selectFrom('bandwidth_shares')
      .select('operation_id')
      .where('operation_id', 'in', ids)
      .execute();
    // Mostly there is none, and nothing to be written.
    if (left.length > 0) {
      await store.transact((trx) =>
        trx.deleteFrom('bandwidth_shares').where('operation_id', 'in', ids).execute(),
      );
    }
    for (const member of free) member.granted = undefined;
  }
  return new Map(
    mine
      .filter(({ granted, joining }) => granted !== undefined || joining !== undefined)
      .map(({ operation }) => [operation.id, 0]),
  );
}

/** Whether the agent has said that it keeps to less than what is stored. */
function isLowered({ confirmed, sent, granted }: Member): boolean {
  if (confirmed === undefined || confirmed !== sent || confirmed === 0 || granted === undefined) return false;
  return granted === NONE || confirmed < granted;
}

interface ShareRow {
  readonly id: string;
  readonly host: string;
  readonly granted: number;
  readonly wanted: number;
  readonly ceiling: number;
}

function rowsOf(trx: Trx, zone: string): Promise<ShareRow[]> {
  return trx
    .selectFrom('bandwidth_shares')
    .innerJoin('operations', 'operations.id', 'bandwidth_shares.operation_id')
    .select([
      'bandwidth_shares.operation_id as id',
      'operations.host',
      'bandwidth_shares.granted',
      'bandwidth_shares.wanted',
      'bandwidth_shares.ceiling',
    ])
    .where('operations.zone', '=', zone)
    .where('operations.active', '=', 1)
    .execute();
}

async function activeOf(trx: Trx, members: readonly Member[]): Promise<ReadonlySet<string>> {
  const rows = await trx
    .selectFrom('operations')
    .select('id')
    .where('active', '=', 1)
    .where(
      'id',
      'in',
      members.map(({ operation }) => operation.id),
    )
    .execute();
  return new Set(rows.map(({ id }) => id));
}

async function removeEnded(trx: Trx): Promise<void> {
  await trx
    .deleteFrom('bandwidth_shares')
    .where((where) =>
      where.exists(
        where
          .selectFrom('operations')
          .select('id')
          .whereRef('operations.id', '=', 'bandwidth_shares.operation_id')
          .where('active', '=', 0),
      ),
    )
    .execute();
}

async function storeRow(
  trx: Trx,
  id: string,
  before: ShareRow | undefined,
  next: Omit<ShareRow, 'id' | 'host'>,
): Promise<void> {
  if (before === undefined) {
    await trx
      .insertInto('bandwidth_shares')
      .values({ operation_id: id, ...next })
      .execute();
    return;
  }
  if (before.granted === next.granted && before.wanted === next.wanted && before.ceiling === next.ceiling)
    return;
  await trx.updateTable('bandwidth_shares').set(next).where('operation_id', '=', id).execute();
}

function shareApplied(share: number): OperationEvent['event'] {
  return { $case: 'shareApplied', value: { bytesPerSecond: BigInt(share) } };
}

function bytesOf(mibps: bigint): number {
  return Number(mibps) * MIB;
}

function stored(amount: number): number {
  return amount === Infinity ? NONE : Math.round(amount);
}

function read(amount: number): number {
  return amount === NONE ? Infinity : amount;
}
