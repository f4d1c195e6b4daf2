import { silentLogger } from '@holdfast/common/logger.ts';
import { controlOf } from '../jobs/control.ts';
import type { JobEvent } from '../jobs/eventLog.ts';
import { stopStorageDaemon } from '../qemu/storageDaemon.ts';
import type { JobContext, StageRun } from '../stages/context.ts';

/** What a stage that works on images alone needs of a job. Daemons that it has left running are ended with the scope. */
export function stageContext(
  runtimeDirectory: string,
): JobContext & AsyncDisposable & { readonly told: JobEvent[] } {
  const context = {
    told: [] as JobEvent[],
    control: controlOf(0),
    logger: silentLogger,
    runtimeDirectory,
    now: () => new Date(),
    undo: { promise: () => Promise.resolve({ forget: () => Promise.resolve() }) },
    [Symbol.asyncDispose]: () => stopStorageDaemon(runtimeDirectory),
  };
  return context as unknown as ReturnType<typeof stageContext>;
}

/** Runs a stage to its end, and keeps what it tells. */
export async function runStage<Result>(told: JobEvent[], run: StageRun<Result>): Promise<Result> {
  for (;;) {
    const { value, done } = await run.next();
    if (done === true) return value;
    told.push(value);
  }
}
