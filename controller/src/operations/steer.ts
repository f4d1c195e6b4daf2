import { HoldfastError, toStatus } from '@holdfast/common/errors.ts';
import type { Control } from '@holdfast/proto/holdfast/agent/v1/agent.ts';
import {
  OperationKind,
  OperationState,
  type Operation,
  type UpdateOperationRequest,
} from '@holdfast/proto/holdfast/v1/operation.ts';
import type { Agents } from '../fleet/agents.ts';
import type { Hosts } from '../fleet/hosts.ts';
import type { Elsewhere } from './elsewhere.ts';
import type { Journal } from './journal.ts';
import { cancelled } from './judge.ts';
import { isEnded } from './reduce.ts';
import { parseBandwidth } from './restore-backup.ts';

/** What steering an operation needs. */
export interface SteerParts {
  readonly journal: Journal;
  readonly elsewhere: Elsewhere;
  readonly hosts: Hosts;
  readonly agents: Agents;
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
 * @throws HoldfastError INVALID_REQUEST, OPERATION_NOT_FOUND, OPERATION_STATE for a deletion that has taken its backup out
 *   of its place
 */
export async function cancelOperation(parts: SteerParts, operationId: string): Promise<Operation> {
  const { journal, elsewhere, now } = parts;
  const before = await journal.find(operationId);
  if (isEnded(before.state)) return before;
  if (before.kind === OperationKind.OPERATION_KIND_DELETE_BACKUP) await stopDeletion(parts, before);
  const operation = await journal.noteCancel(operationId, {
    event: { $case: 'failed', value: toStatus(cancelled()) },
    time: now(),
  });
  if (isEnded(operation.state)) return operation;
  await elsewhere.send(operationId, { $case: 'cancel', value: {} });
  return operation;
}

/**
 * Stops a deletion before it has touched anything. One that nobody is at, since its agent is away, has only the rest of what
 * was begun done when the agent is back.
 */
async function stopDeletion(
  { hosts, agents }: SteerParts,
  { id, state, zone, host, backupId, correlationId }: Operation,
): Promise<void> {
  const { OPERATION_STATE_PENDING, OPERATION_STATE_CANCELLING } = OperationState;
  if (state === OPERATION_STATE_PENDING || state === OPERATION_STATE_CANCELLING) return;
  const { begun } = await agents
    .cancelDeletion(await hosts.find(host), { zone, backupId }, correlationId)
    .catch((error: unknown) => {
      if (error instanceof HoldfastError && error.reason === 'AGENT_UNREACHABLE') return { begun: false };
      throw error;
    });
  if (!begun) return;
  throw new HoldfastError(
    'OPERATION_STATE',
    `Deletion ${id} cannot be cancelled any more: it is taking the backup out of its place, after which no part of it can ` +
      'be relied on. It ends by itself, also when the repository does not answer; if it fails, delete the backup again.',
    { metadata: { operation: id, backup: backupId } },
  );
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
