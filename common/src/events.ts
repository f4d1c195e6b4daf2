import type { OperationEvent, Stage } from '@holdfast/proto/holdfast/v1/event.ts';

/**
 * Of what happens again and again only the latest counts. Such an event has no number of its own but that of the event
 * before it, and is not stored.
 *
 * @returns which others it takes the place of, as a key; undefined for an event that is stored with a number
 */
export function coalescingKey({ event }: Pick<OperationEvent, 'event'>): string | undefined {
  switch (event?.$case) {
    case 'stageProgress':
      return progressKey(event.value.stage);
    case 'queued':
    case 'shareApplied':
      return event.$case;
    default:
      return undefined;
  }
}

/** Puts an event that coalesces in the place of the one before it, behind all others: a map goes on in the order of time. */
export function keepLatest(latest: Map<string, OperationEvent>, key: string, event: OperationEvent): void {
  latest.delete(key);
  latest.set(key, event);
}

/** The key of the progress of a stage. */
export function progressKey(stage: Stage): string {
  return `stage ${stage}`;
}
