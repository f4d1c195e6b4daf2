import type { OperationEvent, Stage, StageFigures } from '@holdfast/proto/holdfast/v1/event.ts';
import { formatLimit } from '../format/bytes.ts';
import { formatDuration, formatTime } from '../format/duration.ts';
import { safe } from '../format/text.ts';
import { fraction } from './figures.ts';
import { damageLine, describeStage, keysLines, queuedLine, warningLine } from './render.ts';
import { advance, noProgress, stageName, type Progress } from './state.ts';

/** What plain output must remember between events. */
export interface PlainState {
  readonly progress: Progress;
  /** The figures that were last printed of each stage. */
  readonly printed: ReadonlyMap<Stage, StageFigures>;
}

export const plainStart: PlainState = { progress: noProgress, printed: new Map() };

/** A running stage is printed again after this long or this much, whichever comes first. */
const EVERY_MS = 5_000n;
const EVERY_STEPS = 10;

/** One more event as the lines to print: for logs and pipes, where nothing can be redrawn. */
export function plainLines(
  state: PlainState,
  event: OperationEvent,
): { readonly state: PlainState; readonly lines: readonly string[] } {
  const progress = advance(state.progress, event);
  const [stage, figures] = progressed(event);
  if (stage === undefined) return { state: { ...state, progress }, lines: linesOf(event, progress) };
  if (!isDue(state.printed.get(stage), figures)) return { state: { ...state, progress }, lines: [] };
  return {
    state: { progress, printed: new Map(state.printed).set(stage, figures) },
    lines: [stageText(progress, stage)],
  };
}

function linesOf({ event }: OperationEvent, progress: Progress): readonly string[] {
  switch (event?.$case) {
    case 'accepted':
      return [`accepted: ${event.value.stages.map(stageName).join(', ')}`];
    case 'stageStarted':
      return [`${stageName(event.value.stage)}: started`];
    case 'stageFinished':
      return [stageText(progress, event.value.stage)];
    case 'warning':
      return [warningLine(event.value)];
    case 'bandwidthApplied':
      return [`limit: ${formatLimit(event.value.limitMibps)}`];
    case 'paused':
      return ['paused'];
    case 'resumed':
      return ['resumed'];
    case 'interrupted':
      return [`the agent of host ${event.value.host} cannot be reached`];
    case 'reattached':
      return [`the agent of host ${event.value.host} answers again`];
    case 'repositoryStalled': {
      const { repository, since, giveUpTime } = event.value;
      const end = giveUpTime === undefined ? '' : `; given up at ${formatTime(giveUpTime)}`;
      return [`waiting: repository ${safe(repository)} has not answered since ${formatTime(since)}${end}`];
    }
    case 'repositoryAnswered':
      return [
        `repository ${safe(event.value.repository)} answers again after ${formatDuration(event.value.stalledMs)}`,
      ];
    case 'keysProgress':
      return keysLines(event.value);
    case 'damageFound':
      return [damageLine(event.value)];
    case 'placed':
      return [`host ${safe(event.value.host)}: ${safe(event.value.reason)}`];
    case 'queued':
      return [queuedLine(event.value)];
    // The result is for whoever follows the operation to tell.
    case 'completed':
    case 'failed':
    case 'stageProgress':
    case 'shareApplied':
    case undefined:
      return [];
  }
}

function progressed({ event }: OperationEvent): [Stage, StageFigures] | [undefined, undefined] {
  if (event?.$case !== 'stageProgress' || event.value.figures === undefined) return [undefined, undefined];
  return [event.value.stage, event.value.figures];
}

function isDue(printed: StageFigures | undefined, figures: StageFigures): boolean {
  if (step(figures) !== (printed === undefined ? 0 : step(printed))) return true;
  return figures.elapsedMs - (printed?.elapsedMs ?? 0n) >= EVERY_MS;
}

function step(figures: StageFigures): number {
  return Math.floor((fraction(figures) ?? 0) * EVERY_STEPS);
}

function stageText(progress: Progress, stage: Stage): string {
  const found = progress.stages.find((candidate) => candidate.stage === stage);
  const text = found === undefined ? '' : describeStage(found, progress.paused).trim();
  return `${stageName(stage)}: ${text}`;
}
