import { Stage, type DiskFigures, type StageFigures } from '@holdfast/proto/holdfast/v1/event.ts';
import type { JobEvent } from '../jobs/eventLog.ts';

/** What QEMU said of one disk of a copy, in bytes. */
export interface DiskReading {
  readonly target: string;
  /** Position and end of the job in the disk's address space. */
  readonly processedBytes: number;
  readonly totalBytes: number;
  /** Data of the source up to the position. */
  readonly dataBytes: number;
  /** What the qcow2 has written: compressed, not yet encrypted by a container. */
  readonly imageBytes: number;
  /** What the file has. */
  readonly fileBytes: number;
  readonly elapsedMs: number;
}

export function progress(stage: Stage, readings: readonly DiskReading[]): JobEvent {
  return {
    $case: 'stageProgress',
    value: { stage, figures: sumOf(stage, readings), disks: eachOf(stage, readings) },
  };
}

export function finished(stage: Stage, readings: readonly DiskReading[]): JobEvent {
  return {
    $case: 'stageFinished',
    value: { stage, figures: sumOf(stage, readings), disks: eachOf(stage, readings) },
  };
}

/** One stage's figures, all disks together. */
function sumOf(stage: Stage, readings: readonly DiskReading[]): StageFigures {
  const figures = readings.map((reading) => figuresOf(stage, reading));
  const sum = (field: keyof StageFigures): bigint => figures.reduce((so, one) => so + one[field], 0n);
  return {
    processedBytes: sum('processedBytes'),
    totalBytes: sum('totalBytes'),
    inputBytes: sum('inputBytes'),
    outputBytes: sum('outputBytes'),
    elapsedMs: figures[0]?.elapsedMs ?? 0n,
  };
}

function eachOf(stage: Stage, readings: readonly DiskReading[]): readonly DiskFigures[] {
  return readings.map((reading) => ({ target: reading.target, figures: figuresOf(stage, reading) }));
}

/** Blockjob reads data and gives data; convert makes an image of it; encrypt makes the file of that image. */
function figuresOf(stage: Stage, reading: DiskReading): StageFigures {
  const [input, output] =
    stage === Stage.STAGE_CONVERT
      ? [reading.dataBytes, reading.imageBytes]
      : stage === Stage.STAGE_ENCRYPT
        ? [reading.imageBytes, reading.fileBytes]
        : [reading.dataBytes, reading.dataBytes];
  return {
    processedBytes: BigInt(reading.processedBytes),
    totalBytes: BigInt(reading.totalBytes),
    inputBytes: BigInt(input),
    outputBytes: BigInt(output),
    elapsedMs: BigInt(reading.elapsedMs),
  };
}
