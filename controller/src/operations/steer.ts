import { HoldfastError, toStatus } from '@holdfast/common/errors.ts';
import type { Control } from '@holdfast/proto/holdfast/agent/v1/agent.ts';
import {
  OperationKind,
  OperationState,
  type Operation,
  type UpdateOperationRequest,
} from '@holdfast/proto/holdfast/v1/operation.ts';
import type { Elsewhere } from './elsewhere.ts';
import type { Journal } from './journal.ts';
import { cancelled } from './judge.ts';
import { isEnded } from './reduce.ts';
import { parseBandwidth } from './restore-backup.ts';

interface SteerParts {
  readonly journal: Journal;
  readonly elsewhere: Elsewhere;
  readonly now: () => Date;
}

/**
 * Passes a new limit, a pause or its end on to the agent. An event says when it took.
 *
 * @throws HoldfastError INVALID_REQUEST, OPERATION_NOT_FOUND, OPERATION_STATE when it has ended, is a deletion, or when
 *   there is no connection to the agent just now
 */
export async function updateOperation(
  { journal, elsewhere }: SteerParts,
  { operationId, change }: UpdateOperationRequest,
): Promise<Operation> {
  const command = commandFor(change);
  const operation = await journal.find(operationId);
  if (isEnded(operation.state)) {
    throw new HoldfastError('OPERATION_STATE', `Operation ${operationId} has ended.`);
  }
  if (operation.state === OperationState.OPERATION_STATE_CANCELLING) {
    throw new HoldfastError('OPERATION_STATE', `Operation ${operationId} is being cancelled.`);
  }
  if (operation.kind === OperationKind.OPERATION_KIND_DELETE_BACKUP) {
    throw new HoldfastError('OPERATION_STATE', 'A deletion can be neither paused nor limited.');
  }
  if (operation.kind === OperationKind.OPERATION_KIND_UPDATE_KEYS) {
    throw new HoldfastError('OPERATION_STATE', 'An update of key files can be neither paused nor limited.');
  }
  if (!(await elsewhere.send(operationId, command))) {
    throw new HoldfastError(
      'OPERATION_STATE',
      `There is no connection to the agent of host ${operation.host} just now; try again.`,
      { metadata: { host: operation.host } },
    );
  }
  return operation;
}

/**
 * Asks an operation to stop. The wish is stored, and passed on as soon as the agent can be reached; where no agent was
 * told of the job, the operation ends at once. An operation that has ended is returned as it is.
 *
 * @throws HoldfastError INVALID_REQUEST, OPERATION_NOT_FOUND, OPERATION_STATE for a deletion that has begun
 */
export async function cancelOperation(
  { journal, elsewhere, now }: SteerParts,
  operationId: string,
): Promise<Operation> {
  const before = await journal.find(operationId);
  if (isEnded(before.state)) return before;
  const operation = await journal.noteCancel(operationId, {
    event: { $case: 'failed', value: toStatus(cancelled()) },
    time: now(),
  });
  if (isEnded(operation.state)) return operation;
  if (operation.kind === OperationKind.OPERATION_KIND_DELETE_BACKUP) {
    throw new HoldfastError(
      'OPERATION_STATE',
      'A deletion that has begun cannot be cancelled, since its first act takes the backup out of the list for good. ' +
        'It ends by itself, also when the repository does not answer.',
    );
  }
  await elsewhere.send(operationId, { $case: 'cancel', value: {} });
  return operation;
}

function commandFor(change: UpdateOperationRequest['change']): NonNullable<Control['command']> {
  switch (change?.$case) {
    case 'bandwidthLimitMibps':
      return { $case: 'setBandwidth', value: { limitMibps: parseBandwidth(change.value) } };
    case 'paused':
      return change.value ? { $case: 'pause', value: {} } : { $case: 'resume', value: {} };
    case undefined:
      throw new HoldfastError('INVALID_REQUEST', 'The change is missing: a bandwidth limit, or paused.');
  }
}
