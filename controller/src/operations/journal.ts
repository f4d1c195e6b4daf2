import { HoldfastError } from '@holdfast/common/errors.ts';
import { OperationEvent } from '@holdfast/proto/holdfast/v1/event.ts';
import {
  Operation,
  operationStateToJSON,
  type ListOperationsRequest,
  type OperationKind,
  OperationState,
} from '@holdfast/proto/holdfast/v1/operation.ts';
import { domainWays, findPage, isAfter, parsePageSize, parsePageToken } from '../catalog/page.ts';
import type { OperationTable } from '../store/schema.ts';
import type { Store, Trx } from '../store/store.ts';
import { conclude } from './conclude.ts';
import { decodeJob, type Job } from './job.ts';
import type { Leadership } from './leadership.ts';
import type { Live } from './live.ts';
import { applyEvent, isEnded, isLast } from './reduce.ts';

/** An operation as its driver holds it: thousands are driven for hours, and the settings would be most of each. */
export type LedOperation = Omit<Operation, 'settings'>;

/** An operation that has not ended and that this controller leads, with what its driver needs. */
export interface ActiveOperation {
  readonly operation: LedOperation;
  readonly job: Job;
  /** Whether the agent may have been told of the job. */
  readonly startSent: boolean;
  /** Whether the agent has taken the job on. */
  readonly accepted: boolean;
  readonly cancelWanted: boolean;
  /** Larger with every controller that has led it. */
  readonly fencingEpoch: bigint;
  /** The agent's number of the latest of its events that is stored. */
  readonly agentSequence: bigint;
}

/** What happened, before it has our number. */
export interface NewEvent {
  readonly event: OperationEvent['event'];
  readonly time: Date;
  /** The agent's number, when it comes from one. An event whose number is not new is ignored. */
  readonly agentSequence?: bigint;
}

/** Operations and their events, stored. */
export interface Journal {
  /** @throws HoldfastError INVALID_REQUEST without an id, OPERATION_NOT_FOUND */
  find(id: string): Promise<Operation>;
  /** Newest first. @throws HoldfastError INVALID_REQUEST for a bad page size or token */
  list(
    query: ListOperationsRequest,
  ): Promise<{ readonly operations: Operation[]; readonly nextPageToken: string }>;
  /** The operation with its job; undefined when it has ended, or another controller leads it. */
  active(id: string): Promise<ActiveOperation | undefined>;
  /** The epoch of its latest leader, also when it has ended; undefined when it is not known. */
  fencingEpoch(id: string): Promise<bigint | undefined>;
  /** Takes an epoch above one that its agent knows, which a state that was put back does not. */
  raiseEpoch(id: string, above: bigint): Promise<void>;
  /** Stored events after a number, in their order, at most `limit`. */
  eventsAfter(id: string, sequence: bigint, limit: number): Promise<OperationEvent[]>;
  /**
   * Stores an event, and with the last one what the operation has come to. Nothing when it is known or too late.
   *
   * @throws HoldfastError STALE_EPOCH when another controller leads the operation
   */
  append(id: string, event: NewEvent): Promise<void>;
  /** Notes progress, which is not stored. */
  progress(id: string, event: NewEvent): void;
  /** Notes that the agent is about to be told. False when a wish to cancel came first. */
  noteStart(id: string): Promise<boolean>;
  /**
   * Notes the wish to cancel; ends the operation at once with `ended` when no agent has been told. Otherwise it is
   * CANCELLING until its agent says how it ended.
   */
  noteCancel(id: string, ended: NewEvent): Promise<Operation>;
}

export function createJournal(parts: {
  readonly store: Store;
  readonly live: Live;
  readonly leadership: Pick<Leadership, 'name'>;
  readonly onProgress: (operationId: string, event: OperationEvent) => void;
  readonly now: () => Date;
}): Journal {
  const { store, live, leadership, onProgress } = parts;
  const { db } = store;
  const lastSequences = new Map<string, bigint>();

  const noteStored = (id: string, events: readonly OperationEvent[]): void => {
    for (const event of events) {
      if (isLast(event)) lastSequences.delete(id);
      else lastSequences.set(id, event.sequence);
      live.note(id, event);
    }
  };
  const withProgress = (operation: Operation): Operation => {
    if (isEnded(operation.state)) return operation;
    const { lastSequence } = operation;
    return { ...live.progress(operation.id).reduce(applyEvent, operation), lastSequence };
  };

  return {
    find: async (id) => {
      if (id === '') throw new HoldfastError('INVALID_REQUEST', 'The operation is missing.');
      const row = await db
        .selectFrom('operations')
        .select('operation_message')
        .where('id', '=', id)
        .executeTakeFirst();
      if (row === undefined) throw operationNotFound(id);
      return withProgress(Operation.decode(row.operation_message));
    },
    list: async (asked) => {
      const {
        zone,
        host,
        domain,
        states,
        activeOnly,
        createTimeFrom: from,
        createTimeBefore: before,
      } = asked;
      const size = parsePageSize(asked.pageSize);
      const end = parsePageToken(asked.pageToken);
      const wanted = states.length === 0 ? [undefined] : [...new Set(states.map(parseState))];
      const { page, nextPageToken } = await findPage(
        domainWays(domain).flatMap((where) => wanted.map((state) => ({ where, state }))),
        ({ where, state }) => {
          let query = db.selectFrom('operations').select(['id', 'create_time', 'operation_message']);
          if (zone !== '') query = query.where('zone', '=', zone);
          if (host !== '') query = query.where('host', '=', host);
          if (where !== undefined) query = query.where(where[0], '=', where[1]);
          if (state !== undefined) query = query.where('state', '=', state);
          if (from !== undefined) query = query.where('create_time', '>=', toIsoTime(from));
          if (before !== undefined) query = query.where('create_time', '<', toIsoTime(before));
          if (activeOnly) query = query.where('active', '=', 1);
          if (end !== undefined) query = query.where(isAfter('create_time', end));
          return query
            .orderBy('create_time', 'desc')
            .orderBy('id', 'desc')
            .limit(size + 1)
            .execute();
        },
        (row) => ({ time: row.create_time, id: row.id }),
        size,
        (row) => row.operation_message.length,
      );
      const operations = page.map((row) => withProgress(Operation.decode(row.operation_message)));
      return { operations, nextPageToken };
    },
    active: async (id) => {
      const row = await db.selectFrom('operations').selectAll().where('id', '=', id).executeTakeFirst();
      if (row?.active !== 1 || row.leader !== leadership.name) return undefined;
      lastSequences.set(id, BigInt(row.last_sequence));
      const { settings, ...operation } = Operation.decode(row.operation_message);
      return {
        operation,
        job: openJob(store, row),
        startSent: row.start_sent === 1,
        accepted: row.accepted === 1,
        cancelWanted: row.cancel_wanted === 1,
        fencingEpoch: BigInt(row.fencing_epoch),
        agentSequence: BigInt(row.agent_sequence),
      };
    },
    fencingEpoch: async (id) => {
      const row = await db
        .selectFrom('operations')
        .select('fencing_epoch')
        .where('id', '=', id)
        .executeTakeFirst();
      return row && BigInt(row.fencing_epoch);
    },
    raiseEpoch: async (id, above) => {
      await store.transact((trx) =>
        trx
          .updateTable('operations')
          .set({ fencing_epoch: Number(above) + 1 })
          .where('id', '=', id)
          .where('leader', '=', leadership.name)
          .where('fencing_epoch', '<=', Number(above))
          .execute(),
      );
    },
    eventsAfter: async (id, sequence, limit) => {
      const rows = await db
        .selectFrom('operation_events')
        .select('event_message')
        .where('operation_id', '=', id)
        .where('sequence', '>', Number(sequence))
        .orderBy('sequence')
        .limit(limit)
        .execute();
      return rows.map((row) => OperationEvent.decode(row.event_message));
    },
    append: async (id, event) => {
      const { name } = leadership;
      noteStored(id, await store.transact((trx) => appendEvent(parts, trx, id, event, name)));
    },
    progress: (id, { event, time }) => {
      // Has the number of the stored event before it: a reader that resumes after it misses nothing.
      const numbered = { sequence: lastSequences.get(id) ?? 0n, time, event };
      live.note(id, numbered);
      onProgress(id, numbered);
    },
    noteStart: async (id) => {
      const result = await store.transact((trx) =>
        trx
          .updateTable('operations')
          .set({ start_sent: 1 })
          .where('id', '=', id)
          .where('leader', '=', leadership.name)
          .where('active', '=', 1)
          .where('cancel_wanted', '=', 0)
          .executeTakeFirst(),
      );
      return result.numUpdatedRows > 0n;
    },
    noteCancel: async (id, ended) => {
      const { operation, events } = await store.transact(async (trx) => {
        await trx
          .updateTable('operations')
          .set({ cancel_wanted: 1 })
          .where('id', '=', id)
          .where('active', '=', 1)
          .execute();
        const row = await trx
          .selectFrom('operations')
          .select(['start_sent', 'active', 'operation_message'])
          .where('id', '=', id)
          .executeTakeFirst();
        if (row === undefined) throw operationNotFound(id);
        const stored =
          row.active === 1 && row.start_sent === 0 ? await appendEvent(parts, trx, id, ended) : [];
        if (row.active === 1 && row.start_sent === 1) {
          const state = OperationState.OPERATION_STATE_CANCELLING;
          const lastKnownState = OperationState.OPERATION_STATE_UNSPECIFIED;
          const stopping = { ...Operation.decode(row.operation_message), state, lastKnownState };
          await trx
            .updateTable('operations')
            .set({ state, operation_message: Operation.encode(stopping).finish() })
            .where('id', '=', id)
            .execute();
        }
        const after = await trx
          .selectFrom('operations')
          .select('operation_message')
          .where('id', '=', id)
          .executeTakeFirstOrThrow();
        return { operation: Operation.decode(after.operation_message), events: stored };
      });
      noteStored(id, events);
      return withProgress(operation);
    },
  };
}

/** A number that is none of the states we know would find nothing, and hide a mistake. */
function parseState(state: OperationState): OperationState {
  if (state > 0 && !operationStateToJSON(state).startsWith('UNRECOGNIZED')) return state;
  throw new HoldfastError('INVALID_REQUEST', `There is no state ${state} of operations.`);
}

/** A time in the form in which the database has it. */
function toIsoTime(time: Date): string {
  if (!Number.isNaN(time.getTime()) && time.getUTCFullYear() >= 0 && time.getUTCFullYear() <= 9_999) {
    return time.toISOString();
  }
  throw new HoldfastError('INVALID_REQUEST', 'A time of the filter is not within the years 0 to 9999.');
}

export function operationNotFound(id: string): HoldfastError {
  return new HoldfastError('OPERATION_NOT_FOUND', `There is no operation ${JSON.stringify(id)}.`, {
    metadata: { operation: id },
  });
}

/** The name under which an operation's job is sealed. */
export function jobIdentity(operationId: string): string {
  return `operations.job:${operationId}`;
}

function openJob(store: Store, row: OperationTable): Job {
  if (row.job_sealed === null) throw new TypeError(`operation ${row.id} is active and has no job`);
  return decodeJob(row.kind as OperationKind, store.sealer.open(row.job_sealed, jobIdentity(row.id)));
}

/**
 * Appends an event, and before the last one what it gives rise to telling.
 *
 * @returns what was stored
 * @param leader who alone may append; anyone when left out
 */
async function appendEvent(
  { store, now }: { readonly store: Store; readonly now: () => Date },
  trx: Trx,
  id: string,
  { event, time, agentSequence }: NewEvent,
  leader?: string,
): Promise<readonly OperationEvent[]> {
  const row = await trx.selectFrom('operations').selectAll().where('id', '=', id).executeTakeFirst();
  if (row?.active !== 1) return [];
  if (leader !== undefined && row.leader !== leader) {
    throw new HoldfastError('STALE_EPOCH', `Another controller has taken operation ${id} over.`);
  }
  if (agentSequence !== undefined && agentSequence <= BigInt(row.agent_sequence)) return [];
  const before = Operation.decode(row.operation_message);
  const ended = isLast({ event });
  const warnings = ended ? await conclude(trx, openJob(store, row), before, { event, time }, now()) : [];
  const happened: readonly OperationEvent['event'][] = [
    ...warnings.map((value) => ({ $case: 'warning' as const, value })),
    event,
  ];
  const numbered = happened.map((each, index) => ({
    sequence: BigInt(row.last_sequence + index + 1),
    time,
    event: each,
  }));
  const operation = numbered.reduce(applyEvent, before);
  await trx
    .insertInto('operation_events')
    .values(
      numbered.map((each) => ({
        operation_id: id,
        sequence: Number(each.sequence),
        event_message: OperationEvent.encode(each).finish(),
      })),
    )
    .execute();
  await trx
    .updateTable('operations')
    .set({
      state: operation.state,
      host: operation.host,
      active: ended ? 0 : 1,
      accepted: agentSequence === undefined ? row.accepted : 1,
      last_sequence: row.last_sequence + numbered.length,
      agent_sequence: agentSequence === undefined ? row.agent_sequence : Number(agentSequence),
      operation_message: Operation.encode(operation).finish(),
      ...(ended ? { job_sealed: null } : {}),
    })
    .where('id', '=', id)
    .execute();
  await store.notices.tell({ kind: 'stored', operationId: id }, trx);
  return numbered;
}
