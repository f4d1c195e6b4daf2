import type { OperationEvent, Stage } from '@holdfast/proto/holdfast/v1/event.ts';
import { type StageFigures } from '@holdfast/proto/holdfast/v1/event.ts';
import type { HoldfastError } from '@holdfast/common/errors.ts';
import { toStatus } from '@holdfast/common/errors.ts';

type Event = NonNullable<OperationEvent['event']>;

/** An event. */
export function event(sequence: number, value: Event): OperationEvent {
  return { sequence: BigInt(sequence), time: new Date(sequence * 1000), event: value };
}

export function accepted(sequence: number, ...stages: Stage[]): OperationEvent {
  return event(sequence, { $case: 'accepted', value: { stages } });
}

export function begun(sequence: number, stage: Stage): OperationEvent {
  return event(sequence, { $case: 'stageStarted', value: { stage } });
}

export function progress(sequence: number, stage: Stage, figures: Partial<StageFigures>): OperationEvent {
  return event(sequence, { $case: 'stageProgress', value: { stage, figures: full(figures), disks: [] } });
}

export function finished(sequence: number, stage: Stage, figures: Partial<StageFigures>): OperationEvent {
  return event(sequence, { $case: 'stageFinished', value: { stage, figures: full(figures), disks: [] } });
}

export function deleted(sequence: number): OperationEvent {
  return event(sequence, {
    $case: 'completed',
    value: { result: { $case: 'deletion', value: { freedBytes: 1024n } } },
  });
}

export function failed(sequence: number, error: HoldfastError): OperationEvent {
  return event(sequence, { $case: 'failed', value: toStatus(error) });
}

function full(figures: Partial<StageFigures>): StageFigures {
  return { processedBytes: 0n, totalBytes: 0n, inputBytes: 0n, outputBytes: 0n, elapsedMs: 0n, ...figures };
}
