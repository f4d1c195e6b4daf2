import { setTimeout as sleep } from 'node:timers/promises';
import { fromServiceError, HoldfastError } from '@holdfast/common/errors.ts';
import type { OperationEvent } from '@holdfast/proto/holdfast/v1/event.ts';
import type { WatchOperationResponse } from '@holdfast/proto/holdfast/v1/operation.ts';
import type { Client } from '../../harness/client.ts';

const RETRY_MS = 1_000;

/** What a state event is known by wherever it goes: what happened, and when, by the clock of its agent. */
export function markOf({ event, time }: Pick<OperationEvent, 'event' | 'time'>): string {
  return `${event?.$case ?? 'nothing'} ${time?.getTime() ?? ''}`;
}

/** The state events that one watcher saw. */
export interface Arrivals {
  /** Their marks, in the order in which they came. */
  readonly marks: readonly string[];
  /** How often a number did not follow the one before it, or the stream broke. */
  readonly gaps: number;
}

/**
 * Watches an operation from its first event to its end. Who opens many streams at once is asked to wait, and does.
 *
 * @param onEvent what each event of any kind is told to as it comes
 */
export async function watchToEnd(
  { operations }: Client,
  operationId: string,
  onEvent: (event: OperationEvent) => void = () => undefined,
): Promise<Arrivals> {
  const marks: string[] = [];
  let last = 0n;
  let gaps = 0;
  while (true) {
    try {
      const stream = operations.watchOperation({ operationId, afterSequence: last });
      for await (const { event } of stream as AsyncIterable<WatchOperationResponse>) {
        if (event === undefined) continue;
        onEvent(event);
        if (event.event?.$case === 'stageProgress') continue;
        if (event.sequence !== last + 1n) gaps += 1;
        last = event.sequence;
        marks.push(markOf(event));
      }
      return { marks, gaps };
    } catch (thrown) {
      const error = fromServiceError(thrown);
      if (!(error instanceof HoldfastError) || error.reason !== 'RATE_LIMITED')
        return { marks, gaps: gaps + 1 };
      await sleep(RETRY_MS);
    }
  }
}

/** How many of the events that an agent told did not arrive, or not in their order. The controller tells some of its own. */
export function countLost(told: readonly string[], { marks, gaps }: Arrivals): number {
  let next = 0;
  let lost = 0;
  for (const mark of told) {
    const at = marks.indexOf(mark, next);
    if (at === -1) lost += 1;
    else next = at + 1;
  }
  return lost + gaps;
}
