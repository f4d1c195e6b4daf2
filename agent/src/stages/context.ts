import type { Logger } from '@holdfast/common/logger.ts';
import type { JobHeader } from '@holdfast/proto/holdfast/agent/v1/agent.ts';
import type { StageFigures } from '@holdfast/proto/holdfast/v1/event.ts';
import { Stage } from '@holdfast/proto/holdfast/v1/event.ts';
import type { Control } from '../jobs/control.ts';
import type { JobEvent } from '../jobs/eventLog.ts';
import type { Journal } from '../jobs/journal.ts';
import type { UndoLog } from '../jobs/undo.ts';
import type { Virsh } from '../libvirt/virsh.ts';
import type { WatchedRepository } from '../repository/liveness.ts';
import type { JournaledRef } from '../repository/repository.ts';

/** What every stage of a job works with. */
export interface JobContext {
  readonly header: JobHeader;
  readonly hostName: string;
  readonly virsh: Virsh;
  readonly journal: Journal;
  readonly undo: UndoLog;
  readonly control: Control;
  readonly logger: Logger;
  /** Private to the job (0700), on tmpfs: monitors and pipes. */
  readonly runtimeDirectory: string;
  /** For the socket that a domain's QEMU makes; given to that QEMU's user. On tmpfs. */
  readonly socketDirectory: string;
  /** The job's own directory for scratch images, on local disk. */
  readonly scratchDirectory: string;
  /** Where locks on domains lie, one directory for all jobs of the agent. */
  readonly locksDirectory: string;
  /** Opens a repository, which is watched, and unmounted at the end of the job unless others use it. */
  readonly openRepository: (ref: JournaledRef) => Promise<WatchedRepository>;
  /** What the job has told so far. */
  readonly summary: () => JobSummary;
  readonly now: () => Date;
}

/** What a job has told: the figures of its finished stages and its warnings. */
export interface JobSummary {
  readonly figures: ReadonlyMap<Stage, StageFigures>;
  readonly warnings: readonly string[];
}

/** A stage: tells what happens as it happens, and returns what the next stages need. */
export type StageRun<Result> = AsyncGenerator<JobEvent, Result, undefined>;

/** What a stage came to. */
export interface StageEnd<Result> {
  readonly result: Result;
  readonly figures?: Partial<StageFigures>;
}

/** Runs one stage between its started and finished events; not before a pause has ended. */
export async function* stage<Result>(
  context: Pick<JobContext, 'control' | 'now'>,
  which: Stage,
  body: AsyncGenerator<JobEvent, StageEnd<Result>, undefined>,
): StageRun<Result> {
  await context.control.whenNotPaused();
  context.control.signal.throwIfAborted();
  context.control.moved();
  const startedMs = context.now().getTime();
  yield { $case: 'stageStarted', value: { stage: which } };
  const { result, figures } = yield* body;
  context.control.moved();
  yield {
    $case: 'stageFinished',
    value: {
      stage: which,
      figures: { ...noFigures, ...figures, elapsedMs: BigInt(context.now().getTime() - startedMs) },
      disks: [],
    },
  };
  return result;
}

export const noFigures: StageFigures = {
  processedBytes: 0n,
  totalBytes: 0n,
  inputBytes: 0n,
  outputBytes: 0n,
  elapsedMs: 0n,
};

/** The name of a stage as it stands in a manifest, such as blockjob. */
export function stageName(which: Stage): string {
  const name = Object.entries(Stage).find(([, value]) => value === which)?.[0] ?? '';
  return name.replace('STAGE_', '').toLowerCase();
}

/** A warning event. */
export function warning(reason: string, message: string, target = ''): JobEvent {
  return { $case: 'warning', value: { reason, message, target } };
}
