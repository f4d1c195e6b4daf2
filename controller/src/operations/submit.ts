import { randomUUID } from 'node:crypto';
import { HoldfastError } from '@holdfast/common/errors.ts';
import { isUuid } from '@holdfast/common/uuid.ts';
import type { OperationKind } from '@holdfast/proto/holdfast/v1/operation.ts';
import { Operation, OperationOrigin, OperationState } from '@holdfast/proto/holdfast/v1/operation.ts';
import type { KeyUse } from '../keys/keys.ts';
import type { Db, Store, Trx } from '../store/store.ts';
import type { Drivers } from './drivers.ts';
import { encodeJob, kindOf, type Job } from './job.ts';
import { jobIdentity } from './journal.ts';
import type { Leadership } from './leadership.ts';

/** A request that may be a repetition: its id, given by the caller or empty, and all that it says as JSON. */
export interface RepeatableRequest {
  readonly kind: OperationKind;
  readonly requestId: string;
  readonly content: unknown;
}

/** A new operation. */
export interface Submission {
  readonly request: RepeatableRequest;
  readonly job: Job;
  readonly operation: Pick<
    Operation,
    'zone' | 'host' | 'hostReason' | 'repository' | 'backupId' | 'domainName' | 'domainUuid' | 'correlationId'
  > &
    Partial<Pick<Operation, 'bandwidthLimitMibps' | 'settings' | 'origin'>>;
  /** Whether any fit host of the zone may do the work. */
  readonly anyHost: boolean;
  /** The first epoch; 1 unless what comes after another operation must outrank it. */
  readonly fencingEpoch?: number;
  /** What the backup's key is wrapped to; absent for all but encrypted backups. */
  readonly keyUse?: KeyUse | undefined;
  /** The last look, in the transaction that stores the operation: throws when another one stands in the way. */
  readonly guard: (trx: Trx) => Promise<void>;
}

/** Takes operations on. */
export interface Submit {
  /**
   * The operation that this request started before.
   *
   * @throws HoldfastError INVALID_REQUEST when the id is no UUID or came with another request
   */
  earlier(request: RepeatableRequest): Promise<Operation | undefined>;
  /** Stores the operation and begins to drive it. */
  accept(submission: Submission): Promise<Operation>;
  /** Stores the operation in a transaction. It is driven when that is committed: see `drive`. */
  acceptIn(trx: Trx, submission: Submission): Promise<Operation>;
  /** Begins to drive what was stored. */
  drive(operationId: string): void;
}

export function createSubmit(parts: {
  readonly store: Store;
  readonly drivers: Drivers;
  readonly leadership: Leadership;
  readonly now: () => Date;
}): Submit {
  const { store, drivers, leadership, now } = parts;
  const acceptIn: Submit['acceptIn'] = async (trx, submission) => {
    const operation = Operation.fromPartial({
      origin: OperationOrigin.OPERATION_ORIGIN_REQUEST,
      ...submission.operation,
      id: randomUUID(),
      kind: kindOf(submission.job),
      state: OperationState.OPERATION_STATE_PENDING,
      createTime: now(),
    });
    await submission.guard(trx);
    await leadership.require(trx);
    await insert(store, trx, operation, submission, leadership.name);
    return operation;
  };
  return {
    earlier: async (request) => {
      if (request.requestId === '') return undefined;
      if (!isUuid(request.requestId.toLowerCase())) {
        throw new HoldfastError(
          'INVALID_REQUEST',
          `The request id ${JSON.stringify(request.requestId)} is not a UUID.`,
        );
      }
      return await findEarlier(store, store.db, request);
    },
    accept: async (submission) => {
      const { operation, isNew } = await store.transact(async (trx) => {
        // The same request may have come in twice at once.
        const known = await findEarlier(store, trx, submission.request);
        if (known !== undefined) return { operation: known, isNew: false };
        return { operation: await acceptIn(trx, submission), isNew: true };
      });
      if (isNew) drivers.drive(operation.id);
      return operation;
    },
    acceptIn,
    drive: (operationId) => {
      drivers.drive(operationId);
    },
  };
}

/**
 * Refuses when an operation on a backup stands in the way of another.
 *
 * @throws HoldfastError IN_USE
 */
export async function refuseBackupInUse(
  trx: Db | Trx,
  backupId: string,
  by: readonly OperationKind[],
): Promise<void> {
  const other = await trx
    .selectFrom('operations')
    .select('id')
    .where('active', '=', 1)
    .where('backup_id', '=', backupId)
    .where('kind', 'in', by)
    .executeTakeFirst();
  if (other !== undefined) {
    throw new HoldfastError('IN_USE', `Operation ${other.id} works on backup ${backupId}.`, {
      metadata: { operation: other.id },
    });
  }
}

async function findEarlier(
  store: Store,
  db: Db | Trx,
  request: RepeatableRequest,
): Promise<Operation | undefined> {
  if (request.requestId === '') return undefined;
  const row = await db
    .selectFrom('operations')
    .select(['request_digest', 'operation_message'])
    .where('request_id', '=', request.requestId.toLowerCase())
    .executeTakeFirst();
  if (row === undefined) return undefined;
  if (row.request_digest !== digestOf(store, request)) {
    throw new HoldfastError(
      'INVALID_REQUEST',
      `The request id ${request.requestId} came before with another request.`,
    );
  }
  return Operation.decode(row.operation_message);
}

async function insert(
  store: Store,
  trx: Trx,
  operation: Operation,
  submission: Submission,
  leader: string,
): Promise<void> {
  const { request, job } = submission;
  await trx
    .insertInto('operations')
    .values({
      id: operation.id,
      kind: operation.kind,
      state: operation.state,
      active: 1,
      zone: operation.zone,
      host: operation.host,
      repository: operation.repository,
      backup_id: operation.backupId,
      domain_uuid: operation.domainUuid,
      domain_name: operation.domainName,
      create_time: (operation.createTime ?? new Date(0)).toISOString(),
      origin: operation.origin,
      admitted: 0,
      any_host: submission.anyHost ? 1 : 0,
      request_id: request.requestId === '' ? null : request.requestId.toLowerCase(),
      request_digest: digestOf(store, request),
      job_sealed: store.sealer.seal(encodeJob(job), jobIdentity(operation.id)),
      start_sent: 0,
      accepted: 0,
      cancel_wanted: 0,
      key_id: submission.keyUse?.keyId ?? '',
      key_generation: submission.keyUse?.generation ?? 0,
      key_escrow_id: submission.keyUse?.escrowId ?? '',
      leader,
      fencing_epoch: submission.fencingEpoch ?? 1,
      last_sequence: 0,
      agent_sequence: 0,
      operation_message: Operation.encode(operation).finish(),
    })
    .execute();
}

function digestOf(store: Store, request: RepeatableRequest): string {
  return store.sealer.digest(JSON.stringify([request.kind, sorted(request.content)]));
}

/** The same value with the keys of its objects in order: maps have none on the wire. */
function sorted(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(sorted);
  if (typeof value !== 'object' || value === null) return value;
  const entries = Object.entries(value).map(([key, entry]): [string, unknown] => [key, sorted(entry)]);
  return Object.fromEntries(entries.sort(([one], [other]) => (one < other ? -1 : 1)));
}
