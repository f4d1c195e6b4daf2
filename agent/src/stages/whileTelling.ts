import { setTimeout as sleep } from 'node:timers/promises';
import type { Stage, StageFigures } from '@holdfast/proto/holdfast/v1/event.ts';
import { noFigures, type JobContext, type StageRun } from './context.ts';

const TELL_EVERY_MS = 250;

/** Waits for work that reads, and tells meanwhile, and once at its end, how far a stage is. */
export async function* whileTelling<Result>(
  { control, now }: Pick<JobContext, 'control' | 'now'>,
  stage: Stage,
  work: Promise<Result>,
  read: () => Pick<StageFigures, 'processedBytes' | 'totalBytes'>,
  look: () => void = () => undefined,
): StageRun<Result> {
  const startedMs = now().getTime();
  const ended = work.then((result) => ({ result }));
  for (;;) {
    const end = await Promise.race([ended, sleep(TELL_EVERY_MS)]);
    control.signal.throwIfAborted();
    look();
    const { processedBytes, totalBytes } = read();
    const elapsedMs = BigInt(now().getTime() - startedMs);
    const figures = { ...noFigures, processedBytes, totalBytes, inputBytes: processedBytes, elapsedMs };
    yield { $case: 'stageProgress', value: { stage, figures, disks: [] } };
    if (end !== undefined) return end.result;
  }
}
