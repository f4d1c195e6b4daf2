import {
  Stage,
  type DamageFound,
  type KeysProgress,
  type Queued,
  type Warning,
} from '@holdfast/proto/holdfast/v1/event.ts';
import { formatBytes, formatLimit, formatRate } from '../format/bytes.ts';
import { formatDuration } from '../format/duration.ts';
import type { Paint } from '../format/paint.ts';
import { safe } from '../format/text.ts';
import { averageRate, currentRate, fraction, ratio, timeLeftMs, workBytes } from './figures.ts';
import { stageName, type Progress, type StageProgress } from './state.ts';

const BAR_WIDTH = 20;
const LISTED_RANGES = 5;

/** The progress as lines for a terminal: one for each stage, then the state of the whole. */
export function renderProgress(progress: Progress, columns: number, paint: Paint): string[] {
  const lines = progress.stages.map((stage) =>
    colour(stage, fit(stageLine(stage, progress.paused), columns), paint),
  );
  const keys = progress.keys === undefined || progress.outcome !== undefined ? [] : keysLines(progress.keys);
  const whole = [...keys, wholeLine(progress)].filter((line) => line !== '');
  return [...lines, ...whole.map((line) => fit(line, columns))];
}

/** What a stage did or does, without its name: `45.0%  1.2 GiB  102.3 MiB/s  12s left`. */
export function describeStage(stage: StageProgress, paused: boolean): string {
  switch (stage.state) {
    case 'waiting':
      return 'waiting';
    case 'running':
      return runningFigures(stage, paused) || 'running';
    case 'finished':
      return finishedFigures(stage);
    case 'failed':
      return 'not finished';
  }
}

/** Damage that was found, in a line. */
export function damageLine({ target, level, ranges, more }: DamageFound): string {
  const where = level === 'stored' ? 'in its image file' : 'as the guest sees it';
  const listed = ranges
    .slice(0, LISTED_RANGES)
    .map(({ offset, length }) => `${offset}-${offset + length - 1n}`);
  const rest = more || ranges.length > LISTED_RANGES ? ' and more' : '';
  return `damage: disk ${safe(target)}, bytes ${listed.join(', ')}${rest} ${where}`;
}

/** A warning in a line. */
export function warningLine({ reason, message, target }: Warning): string {
  return `warning: ${target === '' ? '' : `${safe(target)}: `}${safe(message)} [${safe(reason)}]`;
}

function stageLine(stage: StageProgress, paused: boolean): string {
  return `${stageName(stage.stage).padEnd(9)} ${bar(stage)} ${describeStage(stage, paused)}`;
}

function bar(stage: StageProgress): string {
  const full = stage.state === 'finished' ? 1 : (fraction(stage.figures) ?? 0);
  const filled = Math.floor(full * BAR_WIDTH);
  return `[${'#'.repeat(filled)}${'.'.repeat(BAR_WIDTH - filled)}]`;
}

function runningFigures(stage: StageProgress, paused: boolean): string {
  const done = fraction(stage.figures);
  const rate = paused ? undefined : currentRate(stage);
  const left = paused ? undefined : timeLeftMs(stage);
  return join([
    done === undefined ? '' : percent(done).padStart(6),
    amount(stage),
    rate === undefined ? '' : formatRate(rate),
    left === undefined ? '' : `${formatDuration(left)} left`,
    compression(stage),
  ]);
}

function finishedFigures(stage: StageProgress): string {
  const average = workBytes(stage.figures) > 0n ? averageRate(stage.figures) : undefined;
  return join([
    'done'.padStart(6),
    amount(stage),
    average === undefined ? '' : `${formatRate(average)} on average`,
    `in ${formatDuration(stage.figures.elapsedMs)}`,
    compression(stage),
  ]);
}

function amount({ figures }: StageProgress): string {
  const { inputBytes, outputBytes } = figures;
  if (inputBytes > 0n && outputBytes > 0n && inputBytes !== outputBytes) {
    return `${formatBytes(inputBytes)} -> ${formatBytes(outputBytes)}`;
  }
  const bytes = workBytes(figures);
  return bytes > 0n ? formatBytes(bytes) : '';
}

/** Only where the image is formed: elsewhere the two figures are not of the same thing. */
function compression({ stage, figures }: StageProgress): string {
  const value = stage === Stage.STAGE_CONVERT ? ratio(figures) : undefined;
  return value === undefined ? '' : `ratio ${value.toFixed(2)}`;
}

function wholeLine({ paused, queued, stalled, limitMibps, shareBytesPerSecond, outcome }: Progress): string {
  if (outcome !== undefined) return '';
  return join([
    queued === undefined ? '' : queuedLine(queued),
    paused ? 'PAUSED' : '',
    stalled === undefined ? '' : `STALLED: repository ${safe(stalled)} does not answer`,
    limitMibps === undefined ? '' : `limit ${formatLimit(limitMibps)}`,
    shareBytesPerSecond === 0n ? '' : `share of the zone ${formatRate(Number(shareBytesPerSecond))}`,
  ]);
}

/** `waiting for a slot on host h2 (number 3 in the queue)`. */
export function queuedLine({ message, position }: Queued): string {
  return `${safe(message)} (number ${position} in the queue)`;
}

/** How far an update of key files is, and what each repository waits for. */
export function keysLines({ doneCount, totalCount, pending }: KeysProgress): string[] {
  return [
    `keys of backups: ${doneCount} of ${totalCount} wrapped anew`,
    ...pending
      .filter(({ message }) => message !== '')
      .map(({ repository, message }) => `waiting: repository ${safe(repository)}: ${safe(message)}`),
  ];
}

function percent(value: number): string {
  // 99.96 would be written as 100.0 before it is.
  return `${(Math.floor(value * 1000) / 10).toFixed(1)}%`;
}

function colour(stage: StageProgress, line: string, paint: Paint): string {
  switch (stage.state) {
    case 'waiting':
      return paint.faint(line);
    case 'running':
      return line;
    case 'finished':
      return paint.good(line);
    case 'failed':
      return paint.bad(line);
  }
}

/** A line that wraps would be drawn in the wrong place. */
function fit(line: string, columns: number): string {
  return line.slice(0, Math.max(1, columns - 1)).trimEnd();
}

function join(parts: readonly string[]): string {
  return parts.filter((part) => part !== '').join('  ');
}
