import type { OperationEvent, Stage, StageFigures } from '@holdfast/proto/holdfast/v1/event.ts';

/** What an operation could use of the bandwidth that it shares, guessed from what it does. */
export interface Demand {
  /** What happened in the operation. */
  note(event: OperationEvent['event']): void;
  /**
   * Bytes a second; Infinity when it uses all that it has, or has not been seen at work for long enough.
   *
   * @param share what it may use now, bytes a second; Infinity without a share
   */
  wanted(share: number): number;
}

interface Sample {
  readonly elapsedMs: number;
  readonly bytes: number;
  /** The share while it was taken. */
  readonly share: number;
}

/** The rate is taken over so long: shorter jumps about, longer gives an idle share away too late. */
const WINDOW_MS = 2_000;
/** Below this part of its share it does not use it, above the other it uses all of it; in between nothing changes. */
const IDLE_BELOW = 0.7;
const BUSY_ABOVE = 0.9;
/** What it is left besides what it uses, so that it can be seen to want more. */
const HEADROOM = 1.3;
/** A guess that differs by less than this part from the one before is the same. */
const STEP = 0.15;

/** @param readingStage the stage that reads what is shared */
export function createDemand(readingStage: Stage): Demand {
  let reading = false;
  let paused = false;
  /** Changed in place: of ten thousand operations, each of which tells how far it is every second, copies would be many. */
  const samples: Sample[] = [];
  let share = Infinity;
  let guess = Infinity;

  const measure = (figures: StageFigures): void => {
    const sample = { elapsedMs: Number(figures.elapsedMs), bytes: Number(figures.inputBytes), share };
    samples.push(sample);
    // The newest of those that are too old stays: the rate is taken from it.
    while (samples[1] !== undefined && sample.elapsedMs - samples[1].elapsedMs >= WINDOW_MS) samples.shift();
    const [oldest] = samples;
    if (oldest === undefined || sample.elapsedMs - oldest.elapsedMs < WINDOW_MS) return;
    const rate = ((sample.bytes - oldest.bytes) * 1_000) / (sample.elapsedMs - oldest.elapsedMs);
    const had = Math.min(...samples.map((each) => each.share));
    if (rate >= BUSY_ABOVE * had) guess = Infinity;
    else if (rate < IDLE_BELOW * had && !isNear(rate * HEADROOM, guess)) guess = rate * HEADROOM;
  };
  const startAgain = (): void => {
    samples.length = 0;
    guess = Infinity;
  };
  return {
    note: (event) => {
      switch (event?.$case) {
        case 'stageStarted':
          if (event.value.stage !== readingStage) return;
          reading = true;
          startAgain();
          return;
        case 'stageFinished':
          if (event.value.stage === readingStage) reading = false;
          return;
        case 'stageProgress':
          if (event.value.stage !== readingStage || event.value.figures === undefined) return;
          // The start of the stage was told to the controller before this one, when this one has just attached.
          reading = true;
          measure(event.value.figures);
          return;
        case 'paused':
          paused = true;
          return;
        case 'resumed':
          paused = false;
          startAgain();
          return;
        default:
          return;
      }
    },
    wanted: (now) => {
      share = now;
      return reading && !paused ? guess : 0;
    },
  };
}

function isNear(one: number, other: number): boolean {
  return Number.isFinite(other) && Math.abs(one - other) <= STEP * other;
}
