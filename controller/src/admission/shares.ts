import { HostState } from '@holdfast/proto/holdfast/v1/host.ts';
import type { HostHealth } from '../fleet/host-health.ts';
import type { AgentStream } from '../operations/agent-stream.ts';
import type { LedOperation } from '../operations/journal.ts';
import type { Store, Trx } from '../store/store.ts';
import type { Demand } from './demand.ts';
import { divide } from './divide.ts';

/** After so long it begins with what the budget may be exceeded by, since others do not give up theirs. */
const OVERDRAW_AFTER_MS = 10_000;
/** The part by which a budget may be exceeded. */
const OVERDRAFT = 0.05;
/** In the database: no amount, or none that is known. */
const NONE = -1;

/** An operation of this controller that shares the bandwidth of its zone. */
export interface Member {
  readonly operation: LedOperation;
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

export interface ShareParts {
  readonly store: Store;
  readonly health: HostHealth;
  readonly now: () => Date;
}

/** What each of ours is to be told, bytes a second by the operation's id, and whether anything is not as it was. */
export interface Division {
  readonly shares: ReadonlyMap<string, number>;
  readonly changed: boolean;
}

/** Divides the budget of a zone anew, in a transaction: other controllers do so, too. */
export async function grantShares(
  { store, health, now }: ShareParts,
  zone: string,
  budget: number,
  mine: readonly Member[],
): Promise<Division> {
  const lowered = new Set(mine.filter(isLowered));
  const { shares, granted, changed } = await store.transact(async (trx) => {
    const ended = await removeEnded(trx);
    const active = await activeOf(trx, mine);
    const entered = await enter(trx, zone, active, lowered);
    // What runs on a host that is down holds nobody up; when the host is back, it is counted again.
    const sharers = (await rowsOf(trx, zone)).filter(
      ({ host }) => health.of(host).state !== HostState.HOST_STATE_DOWN,
    );
    const raised = await raise(
      trx,
      budget,
      sharers,
      new Map(active.map((each) => [each.operation.id, each])),
      now,
    );
    const told = new Map(raised.shares);
    // One that was cancelled before it began waits for nothing.
    for (const { operation } of mine.filter((each) => !active.includes(each))) told.set(operation.id, 0);
    return { shares: told, granted: raised.granted, changed: ended || entered || raised.changed };
  });
  for (const member of mine) member.granted = granted.get(member.operation.id) ?? member.granted ?? NONE;
  return { shares, changed };
}

/**
 * Stores what ours want, and what they no longer use.
 *
 * @param lowered those whose agents have said that they keep to less than what is stored
 * @returns whether anything is not as it was
 */
async function enter(
  trx: Trx,
  zone: string,
  active: readonly Member[],
  lowered: ReadonlySet<Member>,
): Promise<boolean> {
  let isNew = false;
  const known = new Map((await rowsOf(trx, zone)).map((row) => [row.id, row]));
  for (const member of active) {
    const { id } = member.operation;
    const row = known.get(id);
    const before = row?.granted ?? (member.joining === undefined ? NONE : 0);
    const next = {
      granted: lowered.has(member) ? (member.confirmed ?? before) : before,
      wanted: stored(member.demand.wanted(before > 0 ? before : Infinity)),
      ceiling: stored(member.ceiling),
    };
    if (await storeRow(trx, id, row, next)) isNew = true;
  }
  return isNew;
}

/**
 * Raises the shares of ours to what they should be, as far as others have made room; those that have too much are told so.
 *
 * @param sharers all of the zone @param mine ours of them, by id @returns what ours are to be told, and what all have then
 */
async function raise(
  trx: Trx,
  budget: number,
  sharers: readonly ShareRow[],
  mine: ReadonlyMap<string, Member>,
  now: () => Date,
): Promise<Division & { readonly granted: ReadonlyMap<string, number> }> {
  const targets = divide(
    budget,
    sharers.map(({ id, wanted, ceiling }) => ({ id, wanted: read(wanted), ceiling: read(ceiling) })),
  );
  let free = sharers.reduce((left, row) => left - (row.granted === NONE ? Infinity : row.granted), budget);
  let changed = false;
  const shares = new Map<string, number>();
  const granted = new Map(sharers.map((row) => [row.id, row.granted]));
  for (const row of sharers.toSorted((one, other) => one.granted - other.granted)) {
    const member = mine.get(row.id);
    const target = targets.get(row.id) ?? 0;
    if (member === undefined) continue;
    const overdraft =
      member.joining !== undefined && now().getTime() - member.joining.sinceMs >= OVERDRAW_AFTER_MS
        ? budget * OVERDRAFT
        : 0;
    const more = Math.floor(Math.min(target - row.granted, free + overdraft));
    if (row.granted !== NONE && more > 0) {
      const share = row.granted + more;
      free -= more;
      changed = true;
      granted.set(row.id, share);
      shares.set(row.id, share);
      await trx
        .updateTable('bandwidth_shares')
        .set({ granted: share })
        .where('operation_id', '=', row.id)
        .execute();
    } else if (row.granted !== 0 || member.joining === undefined) {
      shares.set(row.id, row.granted === NONE ? target : Math.min(target, row.granted));
    }
  }
  return { shares, granted, changed };
}

/** There is no budget any more: what was shared is unlimited once the agents have said so. */
export async function endShares(
  { store }: Pick<ShareParts, 'store'>,
  mine: readonly Member[],
): Promise<Division> {
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
  const shares = mine
    .filter(({ granted, joining }) => granted !== undefined || joining !== undefined)
    .map(({ operation }) => [operation.id, 0] as const);
  // Others see the setting themselves.
  return { shares: new Map(shares), changed: false };
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

async function activeOf(trx: Trx, members: readonly Member[]): Promise<Member[]> {
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
  const active = new Set(rows.map(({ id }) => id));
  return members.filter(({ operation }) => active.has(operation.id));
}

/** @returns whether there were any */
async function removeEnded(trx: Trx): Promise<boolean> {
  const { numDeletedRows } = await trx
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
    .executeTakeFirstOrThrow();
  return numDeletedRows > 0n;
}

/** @returns whether it is not as it was */
async function storeRow(
  trx: Trx,
  id: string,
  before: ShareRow | undefined,
  next: Omit<ShareRow, 'id' | 'host'>,
): Promise<boolean> {
  if (before === undefined) {
    await trx
      .insertInto('bandwidth_shares')
      .values({ operation_id: id, ...next })
      .execute();
    return true;
  }
  if (before.granted === next.granted && before.wanted === next.wanted && before.ceiling === next.ceiling)
    return false;
  await trx.updateTable('bandwidth_shares').set(next).where('operation_id', '=', id).execute();
  return true;
}

function stored(amount: number): number {
  return amount === Infinity ? NONE : Math.round(amount);
}

function read(amount: number): number {
  return amount === NONE ? Infinity : amount;
}
