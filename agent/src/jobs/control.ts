/** What a job can be told while it runs. Each returns once it took effect in QEMU. */
export interface Steering {
  /** Bytes of source data a second, holes not counted; 0 is unlimited. */
  setLimit(bytesPerSecond: number): Promise<void>;
  pause(): Promise<void>;
  resume(): Promise<void>;
}

/** What was wished of a job, and the part of it that can follow the wish at the moment. */
export interface Control {
  /** Aborts when the job is cancelled. */
  readonly signal: AbortSignal;
  readonly limitMibps: number;
  readonly paused: boolean;
  cancel(): void;
  /** Takes effect at once, or as soon as data moves. */
  setLimit(mibps: number): Promise<void>;
  setPaused(paused: boolean): Promise<void>;
  /** Hands the steering to a stage until it gives it back. Wishes from before take effect now. */
  steer(steering: Steering): Promise<() => void>;
}

/** Why a job's signal aborts. */
export class JobCancelled extends Error {
  override readonly name = 'JobCancelled';
}

const MIB = 1_048_576;

/** The control of a job that starts with a limit in MiB/s. */
export function controlOf(limitMibps: number): Control {
  const cancelled = new AbortController();
  let steering: Steering | undefined;
  let limit = limitMibps;
  let isPaused = false;
  return {
    signal: cancelled.signal,
    get limitMibps() {
      return limit;
    },
    get paused() {
      return isPaused;
    },
    cancel: () => {
      cancelled.abort(new JobCancelled('The operation was cancelled.'));
    },
    setLimit: async (mibps) => {
      limit = mibps;
      await steering?.setLimit(mibps * MIB);
    },
    setPaused: async (wanted) => {
      if (wanted === isPaused) return;
      isPaused = wanted;
      await (wanted ? steering?.pause() : steering?.resume());
    },
    steer: async (taker) => {
      let told: number;
      do {
        told = limit;
        await taker.setLimit(told * MIB);
        // A wish that came meanwhile found nobody to follow it.
      } while (told !== limit);
      steering = taker;
      if (isPaused) await taker.pause();
      return () => {
        steering = undefined;
      };
    },
  };
}
