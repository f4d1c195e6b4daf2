import { setTimeout as sleep } from 'node:timers/promises';
import { MIB } from '@holdfast/common/bytes.ts';
import type { Logger } from '@holdfast/common/logger.ts';
import { Stage, WaitReason, type OperationEvent } from '@holdfast/proto/holdfast/v1/event.ts';
import { OperationKind } from '@holdfast/proto/holdfast/v1/operation.ts';
import type { AgentStream } from '../operations/agent-stream.ts';
import type { Journal, LedOperation } from '../operations/journal.ts';
import type { Live } from '../operations/live.ts';
import { integerOf } from '../zones/resolve.ts';
import type { Settings } from '../zones/settings.ts';
import { createDemand } from './demand.ts';
import { FLOOR } from './divide.ts';
import { endShares, grantShares, type Member, type ShareParts } from './shares.ts';

/** How often a zone's budget is divided anew besides whenever something has happened: wishes change, and a word may be lost. */
const DIVIDE_EVERY_MS = 500;
/** After so long the caller is told that a backup waits for bandwidth. */
const TELL_AFTER_MS = 1_000;
/**
 * The bandwidth that the running backups, verifications and restores of a zone share. What each may use is stored before it is told to be more, and
 * after its agent has said that it is less: what is in force is never more than what is stored, and the sum of that is within
 * the budget, whoever dies when.
 */
export interface Budget {
  /** What an operation may use from its first byte on, bytes a second; waits until the others have made room. 0: no budget. */
  join(operation: LedOperation, signal: AbortSignal): Promise<number>;
  /** Takes part with an operation whose stream is open, until `unfollow`. */
  follow(operation: LedOperation, stream: AgentStream): void;
  unfollow(operationId: string): void;
  /** What happened in an operation that takes part. */
  note(operationId: string, event: OperationEvent): void;
  /** Leaves: the operation has ended, or is driven by another controller. */
  leave(operationId: string): void;
  /** Divides all budgets anew: a setting or a host has changed. */
  changed(): void;
  close(): void;
}

export interface BudgetParts extends ShareParts {
  readonly settings: Settings;
  readonly live: Live;
  /** Says what goes on with an operation, here and to other controllers. */
  readonly tell: Journal['progress'];
  readonly logger: Logger;
}

export function createBudget(parts: BudgetParts): Budget {
  const { settings, live, now, logger } = parts;
  const { db, notices } = parts.store;
  const members = new Map<string, Member>();
  const dividing = new Map<string, { again: boolean }>();
  let closed = false;

  const memberOf = (operation: LedOperation): Member => {
    const known = members.get(operation.id);
    if (known !== undefined) return known;
    const member: Member = {
      operation,
      demand: createDemand(readingStage(operation.kind)),
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
    const { shares, changed: isNew } =
      budget === 0 ? await endShares(parts, mine) : await grantShares(parts, zone, budget, mine);
    if (isNew) tellOthers(zone);
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
  /** They need not wait for the next time that they look. */
  const tellOthers = (zone: string): void => {
    notices.tell({ kind: 'divided', zone }, db).catch((error: unknown) => {
      logger.debug('a notice was not sent', { error });
    });
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
  const stopListening = notices.listen((notice) => {
    if (notice.kind === 'divided') divideSoon(notice.zone);
  });

  /** Says what it waits for when that takes a while. */
  const tellLater = async ({ id, zone }: LedOperation, signal: AbortSignal): Promise<void> => {
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
      // When it was the last one here, others find out that it has ended.
      tellOthers(member.operation.zone);
    },
    close: () => {
      closed = true;
      stopListening();
      clearInterval(timer);
    },
  };
}

/** The stage that reads from the disks of the domain, or from the repository. */
function readingStage(kind: OperationKind): Stage {
  switch (kind) {
    case OperationKind.OPERATION_KIND_VERIFY_BACKUP:
      return Stage.STAGE_CHECK;
    case OperationKind.OPERATION_KIND_RESTORE_BACKUP:
      return Stage.STAGE_CONVERT;
    default:
      return Stage.STAGE_BLOCKJOB;
  }
}

function shareApplied(share: number): OperationEvent['event'] {
  return { $case: 'shareApplied', value: { bytesPerSecond: BigInt(share) } };
}

function bytesOf(mibps: bigint): number {
  return Number(mibps) * MIB;
}
