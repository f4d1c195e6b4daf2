import { HoldfastError } from '@holdfast/common/errors.ts';
import type { OperationEvent } from '@holdfast/proto/holdfast/v1/event.ts';
import type { Journal } from './journal.ts';
import type { Live } from './live.ts';
import { isEnded, isLast } from './reduce.ts';

const BATCH = 200;

/**
 * An operation's events after a number: those that are stored, all of them and in order, then the latest progress of each
 * running stage, then both as they come. Ends after the last event. A slow reader misses progress and nothing else.
 *
 * @throws HoldfastError OPERATION_NOT_FOUND, INVALID_REQUEST for a negative number, SHUTTING_DOWN when the controller stops
 */
export async function* watchOperation(
  parts: { readonly journal: Journal; readonly live: Live; readonly stopping: AbortSignal },
  operationId: string,
  afterSequence: bigint,
  signal: AbortSignal,
): AsyncGenerator<OperationEvent> {
  const { journal, live, stopping } = parts;
  if (afterSequence < 0n) {
    throw new HoldfastError('INVALID_REQUEST', `The sequence number ${String(afterSequence)} is negative.`);
  }
  await journal.find(operationId);
  const subscription = live.subscribe(operationId);
  const either = AbortSignal.any([signal, stopping]);
  let after = afterSequence;
  let shown: readonly OperationEvent[] = [];
  try {
    let stored = true;
    while (true) {
      if (stored) {
        // Asked before the events are read: what ends the operation in between is read or wakes us.
        const { state, lastSequence } = await journal.find(operationId);
        while (after < lastSequence) {
          const events = await journal.eventsAfter(operationId, after, BATCH);
          for (const event of events) {
            yield event;
            after = event.sequence;
            if (isLast(event)) return;
          }
          if (events.length < BATCH) break;
        }
        if (isEnded(state)) return;
      }
      // What belongs to an event that was not read yet comes after it.
      const progress = live.progress(operationId).filter((event) => event.sequence <= after);
      for (const event of progress) if (!shown.includes(event)) yield event;
      shown = progress;
      ({ stored } = await subscription.next(either));
    }
  } catch (error) {
    if (stopping.aborted && !signal.aborted) {
      throw new HoldfastError(
        'SHUTTING_DOWN',
        `The controller stops. The operation goes on; watch it again after event ${String(after)}.`,
      );
    }
    throw error;
  } finally {
    subscription.close();
  }
}
