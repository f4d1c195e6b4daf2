import assert from 'node:assert/strict';
import { coalescingKey } from '@holdfast/common/events.ts';
import type { Stage } from '@holdfast/proto/holdfast/v1/event.ts';
import type { OperationEvent } from '@holdfast/proto/holdfast/v1/event.ts';

/** Whether an event says that a stage began. */
export function isStart({ event }: OperationEvent, stage: Stage): boolean {
  return event?.$case === 'stageStarted' && event.value.stage === stage;
}

/** Whether an event says that a stage ended well. */
export function isFinish({ event }: OperationEvent, stage: Stage): boolean {
  return event?.$case === 'stageFinished' && event.value.stage === stage;
}

/** The kinds of the events, progress left out. */
export function kindsOf(events: readonly OperationEvent[]): string[] {
  return withoutProgress(events).map(({ event }) => event?.$case ?? '');
}

export function withoutProgress(events: readonly OperationEvent[]): OperationEvent[] {
  return events.filter(({ event }) => coalescingKey({ event }) === undefined);
}

/** Throws unless the numbers go up by one from `first`, and progress has that of the event before it. */
export function requireNoGaps(events: readonly OperationEvent[], first = 1n): void {
  let next = first;
  for (const { sequence, event } of events) {
    if (coalescingKey({ event }) !== undefined) assert.equal(sequence, next - 1n, 'progress');
    else assert.equal(sequence, next++, event?.$case);
  }
}
