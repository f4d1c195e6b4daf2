import { fromServiceError, fromStatus, type HoldfastError } from '@holdfast/common/errors.ts';
import { correlated } from '@holdfast/common/client.ts';
import type { OperationEvent } from '@holdfast/proto/holdfast/v1/event.ts';
import {
  OperationState,
  type Operation,
  type OperationServiceClient,
  type WatchOperationResponse,
} from '@holdfast/proto/holdfast/v1/operation.ts';

/** An operation that has ended, with all events that its watcher saw. */
export interface Followed {
  readonly operation: Operation;
  readonly events: readonly OperationEvent[];
}

/** What to do at an event; the events after it wait for it. */
export type OnEvent = (event: OperationEvent) => Promise<void> | undefined;

/** The events of an operation after a number, until its last one. Throws when the stream breaks. */
export async function watch(
  operations: OperationServiceClient,
  operationId: string,
  afterSequence: bigint,
  onEvent?: OnEvent,
): Promise<OperationEvent[]> {
  const call = operations.watchOperation({ operationId, afterSequence }, correlated('test-watch'));
  const events: OperationEvent[] = [];
  try {
    for await (const { event } of call as AsyncIterable<WatchOperationResponse>) {
      if (event === undefined) throw new Error('A message of WatchOperation without event.');
      events.push(event);
      await onEvent?.(event);
    }
  } catch (error) {
    throw fromServiceError(error);
  } finally {
    call.cancel();
  }
  return events;
}

/** The operation of something that must have ended well; throws its error otherwise. */
export function succeeded({ operation }: Followed): Operation {
  if (operation.state === OperationState.OPERATION_STATE_SUCCEEDED) return operation;
  throw operation.error === undefined
    ? new Error(`Operation ${operation.id} ended in state ${operation.state}.`)
    : fromStatus(operation.error);
}

/** The error of something that must have failed or been cancelled. */
export function failed({ operation }: Followed): HoldfastError {
  if (operation.error === undefined) throw new Error(`Operation ${operation.id} has no error.`);
  return fromStatus(operation.error);
}
