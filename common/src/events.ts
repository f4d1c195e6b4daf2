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

/** The key of the progress of a stage. */
export function progressKey(stage: Stage): string {
  return `stage ${stage}`;
}
