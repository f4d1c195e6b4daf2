import type { StageFigures } from '@holdfast/proto/holdfast/v1/event.ts';
import type { StageProgress } from './state.ts';

/** How far along the address space a stage is, 0 to 1; undefined while the total is not known. */
export function fraction({ processedBytes, totalBytes }: StageFigures): number | undefined {
  if (totalBytes <= 0n) return undefined;
  return Math.min(1, Math.max(0, Number(processedBytes) / Number(totalBytes)));
}

/** The bytes that a stage's speed counts: data that went in, or what there is when it does not say. */
export function workBytes({ inputBytes, outputBytes, processedBytes }: StageFigures): bigint {
  if (inputBytes > 0n) return inputBytes;
  return outputBytes > 0n ? outputBytes : processedBytes;
}

/** Bytes a second over the whole stage. */
export function averageRate(figures: StageFigures): number | undefined {
  if (figures.elapsedMs <= 0n) return undefined;
  return (Number(workBytes(figures)) / Number(figures.elapsedMs)) * 1000;
}

/** Bytes a second over the last few seconds; undefined while there is only one measurement. */
export function currentRate(stage: StageProgress): number | undefined {
  return rateOf(stage, workBytes);
}

/** Milliseconds until the stage ends at its current pace through the address space; undefined when unknown. */
export function timeLeftMs(stage: StageProgress): number | undefined {
  const { processedBytes, totalBytes } = stage.figures;
  const rate = rateOf(stage, (figures) => figures.processedBytes);
  if (rate === undefined || rate <= 0 || totalBytes <= 0n) return undefined;
  return (Number(totalBytes - processedBytes) / rate) * 1000;
}

/** How many times smaller the output is than the input; undefined while there is none of either. */
export function ratio({ inputBytes, outputBytes }: StageFigures): number | undefined {
  return inputBytes > 0n && outputBytes > 0n ? Number(inputBytes) / Number(outputBytes) : undefined;
}

function rateOf(stage: StageProgress, measure: (figures: StageFigures) => bigint): number | undefined {
  const [first] = stage.recent;
  if (first === undefined) return undefined;
  const elapsedMs = Number(stage.figures.elapsedMs - first.elapsedMs);
  if (elapsedMs <= 0) return undefined;
  return Math.max(0, (Number(measure(stage.figures) - measure(first)) / elapsedMs) * 1000);
}
