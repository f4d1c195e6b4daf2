import { coalescingKey } from '@holdfast/common/events.ts';
import type { HoldfastError } from '@holdfast/common/errors.ts';
import { fromServiceError, fromStatus } from '@holdfast/common/errors.ts';
import { correlated } from '@holdfast/common/client.ts';
import { OperationEvent } from '@holdfast/proto/holdfast/v1/event.ts';
import { OperationState, type Operation } from '@holdfast/proto/holdfast/v1/operation.ts';
import { call, unreachable, type Session } from '../session.ts';
import { CommandError } from '../command-error.ts';
import type { Terminal } from '../terminal.ts';
import { isFromTransport } from '../transport.ts';

/** How long to wait before the next attempt, and in all before giving up: a host may need to boot. */
const RETRY_MS = 1_000;
const PATIENCE_MS = 10 * 60_000;

export interface FollowOptions {
  readonly operationId: string;
  /** Only events after this one. */
  readonly afterSequence: bigint;
  /** Ends the stream quietly; the operation does not notice. */
  readonly signal: AbortSignal;
  /** Told in words when the stream broke and when it goes on. */
  readonly notice: (text: string) => void;
}

/**
 * The events of an operation up to its last. When the connection breaks, or the controller is restarted, it goes on
 * after the last event that was seen.
 *
 * @throws HoldfastError when the controller refuses, CommandError CONTROLLER_UNREACHABLE when it stays away.
 */
export async function* followEvents(
  session: Session,
  terminal: Pick<Terminal, 'wait' | 'nowMs'>,
  options: FollowOptions,
): AsyncGenerator<OperationEvent> {
  const { signal, notice } = options;
  let last = options.afterSequence;
  let brokenSinceMs: number | undefined;
  while (!signal.aborted) {
    try {
      for await (const event of watch(session, options.operationId, last, signal)) {
        if (brokenSinceMs !== undefined) notice('The connection is back; following goes on.');
        brokenSinceMs = undefined;
        // Progress has the number of the event before it: it is never old news, and says nothing of what was seen.
        if (coalescingKey(event) === undefined) {
          if (event.sequence <= last) continue;
          last = event.sequence;
        }
        yield event;
        if (isLast(event)) return;
      }
      // The stream ended without a last event: it lies before afterSequence, or the controller is stopping.
      const end = await endOf(session, options.operationId);
      if (end !== undefined) {
        yield end;
        return;
      }
      throw new CommandError('CONTROLLER_UNREACHABLE', 'The stream ended early.');
    } catch (error) {
      if (isAborted(signal)) return;
      if (!isTemporary(error)) throw fromServiceError(error);
      const nowMs = terminal.nowMs();
      if (brokenSinceMs === undefined) notice('The connection to the controller broke; trying again.');
      brokenSinceMs ??= nowMs;
      if (nowMs - brokenSinceMs > PATIENCE_MS) throw unreachable(session.address, error);
    }
    await terminal.wait(RETRY_MS, signal);
  }
}

async function* watch(
  session: Session,
  operationId: string,
  afterSequence: bigint,
  signal: AbortSignal,
): AsyncGenerator<OperationEvent> {
  const stream = session.operations.watchOperation(
    { operationId, afterSequence },
    correlated(session.correlationId),
  );
  const cancel = (): void => {
    stream.cancel();
  };
  signal.addEventListener('abort', cancel);
  // A stream that is cancelled after its reader has gone says so, and nobody else listens.
  stream.on('error', () => undefined);
  try {
    for await (const response of stream as AsyncIterable<{ event: OperationEvent | undefined }>) {
      if (response.event !== undefined) yield response.event;
    }
  } finally {
    signal.removeEventListener('abort', cancel);
    stream.cancel();
  }
}

/** The last event of an operation that has ended, made from what the controller keeps of it. */
async function endOf(session: Session, operationId: string): Promise<OperationEvent | undefined> {
  const { operation } = await call(session, session.operations.getOperation.bind(session.operations), {
    operationId,
  });
  return operation === undefined ? undefined : lastEvent(operation);
}

function lastEvent(operation: Operation): OperationEvent | undefined {
  const head = { sequence: operation.lastSequence, time: operation.endTime };
  switch (operation.state) {
    case OperationState.OPERATION_STATE_SUCCEEDED:
      return { ...head, event: { $case: 'completed', value: operation.result ?? { result: undefined } } };
    case OperationState.OPERATION_STATE_FAILED:
    case OperationState.OPERATION_STATE_CANCELLED:
      return OperationEvent.fromPartial({
        ...head,
        event: { $case: 'failed', value: operation.error ?? {} },
      });
    default:
      return undefined;
  }
}

/** Why an operation ended; undefined when it ended well or has not ended. */
export function failureOf({ event }: OperationEvent): HoldfastError | undefined {
  return event?.$case === 'failed' ? fromStatus(event.value) : undefined;
}

/** Whether an operation ends with this event. */
export function isLast({ event }: OperationEvent): boolean {
  return event?.$case === 'completed' || event?.$case === 'failed';
}

function isTemporary(error: unknown): boolean {
  if (error instanceof CommandError) return error.reason === 'CONTROLLER_UNREACHABLE';
  if (isFromTransport(error)) return true;
  const known = fromServiceError(error);
  return 'reason' in known && known.reason === 'SHUTTING_DOWN';
}

/** Asked through a function: the compiler takes a second look at the flag for the same as the first. */
function isAborted(signal: AbortSignal): boolean {
  return signal.aborted;
}
