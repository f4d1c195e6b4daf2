import { setTimeout as delay } from 'node:timers/promises';
import { fromStatus, HoldfastError } from '@holdfast/common/errors.ts';
import type { ClientUnaryCall, Metadata, ServiceError } from '@grpc/grpc-js';
import {
  DeleteBackupRequest,
  ImageFormat,
  RestoreBackupRequest,
  TakeBackupRequest,
  VerifyBackupRequest,
} from '@holdfast/proto/holdfast/v1/backup.ts';
import {
  OperationState,
  UpdateOperationRequest,
  type Operation,
} from '@holdfast/proto/holdfast/v1/operation.ts';
import { watch } from '../../harness/follow.ts';
import { until } from '../../lab/deadline.ts';
import { ZONE, type Bed } from './bed.ts';
import type { Decision, Interference } from './decide.ts';
import { kill, type Killed } from './victims.ts';

/** How a step's operation ended. */
export interface Outcome {
  readonly operation: Operation;
  readonly state: 'succeeded' | 'failed' | 'cancelled';
  /** Empty when it succeeded. */
  readonly reason: string;
  readonly message: string;
  /** Whether the interference found something to interfere with. */
  readonly interfered: boolean;
  readonly seconds: number;
  /** Where a restore was to. */
  readonly directory: string;
}

/** An operation has to end within this, whatever is done to it. */
const DEADLINE_MS = 120_000;
const PAUSE_MS = 500;
const ENDED: readonly OperationState[] = [
  OperationState.OPERATION_STATE_SUCCEEDED,
  OperationState.OPERATION_STATE_FAILED,
  OperationState.OPERATION_STATE_CANCELLED,
];

/** Starts the operation of a step, interferes with it, and waits for its end. Throws when it does not end in time. */
export async function perform(bed: Bed, decision: Decision, backupId: string): Promise<Outcome> {
  const { client } = bed.holdfast;
  const directory = decision.work === 'restore' ? await bed.holdfast.restoreDirectory() : '';
  const startMs = performance.now();
  const { id } = await start(bed, decision, backupId, directory);
  const { interfered, heal } = await interfere(bed, decision, id);
  const operation = await until(`Operation ${id} ends`, DEADLINE_MS, async () => {
    const known = await client.getOperation(id).catch(ifAway);
    return known !== undefined && ENDED.includes(known.state) ? known : undefined;
  });
  const seconds = (performance.now() - startMs) / 1_000;
  await heal();
  return { operation, ...endOf(operation), interfered, seconds, directory };
}

async function start(
  { holdfast, running, stopped }: Bed,
  { work, guest, settings }: Decision,
  backupId: string,
  directory: string,
): Promise<Operation> {
  const { client, agent } = holdfast;
  const { backups } = client;
  switch (work) {
    case 'backup': {
      const { uuid } = guest === 'running' ? running : stopped;
      return asked(
        client,
        backups.takeBackup.bind(backups),
        TakeBackupRequest.fromPartial({ zone: ZONE, domain: uuid, settings }),
      );
    }
    case 'verify':
      return asked(client, backups.verifyBackup.bind(backups), VerifyBackupRequest.fromPartial({ backupId }));
    case 'restore': {
      const request = {
        backupId,
        host: agent.hostName,
        directory,
        bandwidthLimitMibps: 16n,
        format: ImageFormat.IMAGE_FORMAT_RAW,
      };
      return asked(client, backups.restoreBackup.bind(backups), RestoreBackupRequest.fromPartial(request));
    }
    case 'delete':
      return asked(client, backups.deleteBackup.bind(backups), DeleteBackupRequest.fromPartial({ backupId }));
  }
}

type Method<Request> = (
  request: Request,
  metadata: Metadata,
  options: { deadline: Date },
  callback: (error: ServiceError | null, response: { operation: Operation | undefined }) => void,
) => ClientUnaryCall;

async function asked<Request>(
  client: Bed['holdfast']['client'],
  method: Method<Request>,
  request: Request,
): Promise<Operation> {
  const { operation } = await client.call(method, request);
  if (operation === undefined) throw new Error('An operation was not answered.');
  return operation;
}

/** Waits for the moment and interferes; an operation that ends before it is left alone. */
async function interfere(
  bed: Bed,
  { interference, afterEvents, delayMs }: Decision,
  id: string,
): Promise<{ readonly interfered: boolean; readonly heal: () => Promise<void> }> {
  const untouched = { interfered: false, heal: () => Promise.resolve() };
  if (interference.kind === 'none') return untouched;
  const { operations } = bed.holdfast.client;
  const moment = Promise.withResolvers<boolean>();
  let seen = 0;
  watch(operations, id, 0n, (event) => {
    if (event.event?.$case !== 'stageProgress' && seen++ >= afterEvents) moment.resolve(true);
    return undefined;
  }).then(
    () => {
      moment.resolve(false);
    },
    () => {
      moment.resolve(false);
    },
  );
  if (!(await moment.promise)) return untouched;
  await delay(delayMs);
  if (interference.kind !== 'kill') return { ...untouched, interfered: await steer(bed, interference, id) };
  const killed: Killed = await kill(bed, interference.victim, id);
  await killed.restart();
  return { interfered: killed.hit, heal: killed.heal };
}

/** False when the operation could not be steered any more. */
async function steer(
  { holdfast: { client } }: Bed,
  interference: Exclude<Interference, { kind: 'kill' | 'none' }>,
  operationId: string,
): Promise<boolean> {
  const { operations } = client;
  const update = (request: Partial<UpdateOperationRequest>) =>
    client.call(
      operations.updateOperation.bind(operations),
      UpdateOperationRequest.fromPartial({ operationId, ...request }),
    );
  try {
    switch (interference.kind) {
      case 'cancel':
        await client.call(operations.cancelOperation.bind(operations), { operationId });
        return true;
      case 'pause':
        await update({ change: { $case: 'paused', value: true } });
        await delay(PAUSE_MS);
        await update({ change: { $case: 'paused', value: false } });
        return true;
      case 'set-bandwidth': {
        const value = BigInt(interference.mibps);
        await update({ change: { $case: 'bandwidthLimitMibps', value } });
        return true;
      }
      case 'change settings':
        await client.setSettings(ZONE, interference.values);
        return true;
    }
  } catch (error) {
    if (error instanceof HoldfastError && error.reason === 'OPERATION_STATE') return false;
    throw error;
  }
}

function endOf({ state, error }: Operation): Pick<Outcome, 'state' | 'reason' | 'message'> {
  if (state === OperationState.OPERATION_STATE_SUCCEEDED)
    return { state: 'succeeded', reason: '', message: '' };
  const { reason, message } = error === undefined ? { reason: '', message: '' } : fromStatus(error);
  const isCancelled = state === OperationState.OPERATION_STATE_CANCELLED;
  return { state: isCancelled ? 'cancelled' : 'failed', reason, message };
}

/** A controller that was killed answers again soon. */
function ifAway(error: unknown): undefined {
  if (error instanceof HoldfastError && error.reason === 'AGENT_UNREACHABLE') return undefined;
  throw error as Error;
}
