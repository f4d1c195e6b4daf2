import type {
  Completed,
  KeysProgress,
  OperationEvent,
  Queued,
  StageFigures,
  Warning,
} from '@holdfast/proto/holdfast/v1/event.ts';
import { Stage } from '@holdfast/proto/holdfast/v1/event.ts';
import type { Status } from '@holdfast/proto/google/rpc/status.ts';

/** How an operation looks after the events so far. */
export interface Progress {
  /** In the order in which they start. */
  readonly stages: readonly StageProgress[];
  readonly warnings: readonly Warning[];
  /** MiB/s, 0 is unlimited; undefined until the operation says it. */
  readonly limitMibps: bigint | undefined;
  readonly paused: boolean;
  /** The repository that does not answer. */
  readonly stalled: string | undefined;
  /** What it waits for before it begins. */
  readonly queued: Queued | undefined;
  /** Bytes a second of what the zone's backups share; 0 is nothing shared. */
  readonly shareBytesPerSecond: bigint;
  /** Of an update of key files. */
  readonly keys: KeysProgress | undefined;
  readonly outcome: Outcome | undefined;
}

export interface StageProgress {
  readonly stage: Stage;
  /** waiting → running → finished, or failed when the operation ends before the stage does. */
  readonly state: 'waiting' | 'running' | 'finished' | 'failed';
  readonly figures: StageFigures;
  /** The last few seconds of figures, oldest first, for the current speed. */
  readonly recent: readonly StageFigures[];
}

export type Outcome =
  | { readonly kind: 'completed'; readonly completed: Completed }
  | { readonly kind: 'failed'; readonly status: Status };

/** Over how long the current speed is taken. Shorter jumps about, longer hides a change of the limit. */
const RECENT_MS = 4_000n;

const NO_FIGURES: StageFigures = {
  processedBytes: 0n,
  totalBytes: 0n,
  inputBytes: 0n,
  outputBytes: 0n,
  elapsedMs: 0n,
};

export const noProgress: Progress = {
  stages: [],
  warnings: [],
  limitMibps: undefined,
  paused: false,
  stalled: undefined,
  queued: undefined,
  shareBytesPerSecond: 0n,
  keys: undefined,
  outcome: undefined,
};

/** The progress after one more event. */
export function advance(progress: Progress, { event }: OperationEvent): Progress {
  return { ...progress, ...change(progress, event) };
}

function change(progress: Progress, event: OperationEvent['event']): Partial<Progress> {
  switch (event?.$case) {
    case undefined:
      return {};
    case 'accepted':
      return { stages: event.value.stages.map((stage) => stageOf(progress, stage)), queued: undefined };
    case 'stageStarted':
      return withStage(startingAgain(progress, event.value.stage), event.value.stage, (stage) => ({
        ...stage,
        state: 'running',
      }));
    case 'stageProgress': {
      const { figures } = event.value;
      return withStage(progress, event.value.stage, (stage) =>
        // Progress that is delivered after the end of its stage is old.
        stage.state === 'finished' ? stage : measured({ ...stage, state: 'running' }, figures),
      );
    }
    case 'stageFinished': {
      const { figures } = event.value;
      return withStage(progress, event.value.stage, (stage) =>
        measured({ ...stage, state: 'finished' }, figures),
      );
    }
    case 'warning':
      return { warnings: [...progress.warnings, event.value] };
    case 'bandwidthApplied':
      return { limitMibps: event.value.limitMibps };
    case 'paused':
      return { paused: true };
    case 'resumed':
      // The pause would count as slowness.
      return { paused: false, stages: progress.stages.map((stage) => ({ ...stage, recent: [] })) };
    case 'queued':
      return { queued: event.value };
    case 'shareApplied':
      return { shareBytesPerSecond: event.value.bytesPerSecond };
    case 'keysProgress':
      return { keys: event.value };
    case 'damageFound':
    case 'interrupted':
    case 'reattached':
    case 'placed':
      return {};
    case 'repositoryStalled':
      return { stalled: event.value.repository };
    case 'repositoryAnswered':
      // The wait would count as slowness.
      return { stalled: undefined, stages: progress.stages.map((stage) => ({ ...stage, recent: [] })) };
    case 'completed':
      return {
        outcome: { kind: 'completed', completed: event.value },
        ...{ paused: false, stalled: undefined, queued: undefined },
      };
    case 'failed':
      return {
        outcome: { kind: 'failed', status: event.value },
        paused: false,
        stalled: undefined,
        queued: undefined,
        stages: progress.stages.map((stage) =>
          stage.state === 'running' ? { ...stage, state: 'failed' } : stage,
        ),
      };
  }
}

/** A stage that starts again starts from nothing, and so do those after it. */
function startingAgain(progress: Progress, stage: Stage): Progress {
  const at = progress.stages.findIndex((each) => each.stage === stage);
  if (at === -1 || progress.stages[at]?.state === 'waiting') return progress;
  const stages = progress.stages.map((each, index) =>
    index < at ? each : ({ stage: each.stage, state: 'waiting', figures: NO_FIGURES, recent: [] } as const),
  );
  return { ...progress, stages };
}

/** Changes one stage; one that the plan did not name is added at the end, so that nothing is hidden. */
function withStage(
  progress: Progress,
  stage: Stage,
  update: (stage: StageProgress) => StageProgress,
): Partial<Progress> {
  const known = progress.stages.some((candidate) => candidate.stage === stage);
  const stages = known ? progress.stages : [...progress.stages, stageOf(progress, stage)];
  return {
    stages: stages.map((candidate) => (candidate.stage === stage ? update(candidate) : candidate)),
  };
}

function stageOf(progress: Progress, stage: Stage): StageProgress {
  return (
    progress.stages.find((candidate) => candidate.stage === stage) ?? {
      stage,
      state: 'waiting',
      figures: NO_FIGURES,
      recent: [],
    }
  );
}

function measured(stage: StageProgress, figures: StageFigures | undefined): StageProgress {
  if (figures === undefined) return stage;
  const all = [...stage.recent, figures];
  // The newest of the samples that are too old stays: the speed is taken from it.
  const firstYoung = all.findIndex(({ elapsedMs }) => figures.elapsedMs - elapsedMs < RECENT_MS);
  return { ...stage, figures, recent: all.slice(Math.max(0, firstYoung - 1)) };
}

/** The name of a stage as users know it: `blockjob`. */
export function stageName(stage: Stage): string {
  const found = Object.entries(Stage).find(([, value]) => value === stage);
  return found === undefined ? `stage ${stage}` : found[0].replace(/^STAGE_/, '').toLowerCase();
}
