import { MIB } from '@holdfast/common/bytes.ts';
import { inTurn } from '../process/inTurn.ts';

/** What a job can be told while it runs. Each returns once it took effect in QEMU. */
export interface Steering {
  /** Bytes of source data a second, holes not counted; 0 is unlimited. */
  setLimit(bytesPerSecond: number): Promise<void>;
  pause(): Promise<void>;
  resume(): Promise<void>;
}

/** What was wished of a job, and the part of it that can follow the wish at the moment. */
export interface Control {
  /** Aborts when the job is cancelled, or failed from outside of its stages. */
  readonly signal: AbortSignal;
  readonly limitMibps: number;
  /** What limit and share come to, bytes of source data a second; 0 is unlimited. */
  readonly bytesPerSecond: number;
  readonly paused: boolean;
  /** How long nothing has moved, in milliseconds; a pause does not count. */
  readonly idleMs: number;
  cancel(): void;
  /** Ends the job with this error, whatever it is busy with. */
  fail(error: Error): void;
  /** Says that something has moved. */
  moved(): void;
  /** Takes effect at once, or as soon as data moves. */
  setLimit(mibps: number): Promise<void>;
  /** What it may use of a bandwidth that others use too, beside the limit: the smaller one holds. 0 when none is shared. */
  setShare(bytesPerSecond: number): Promise<void>;
  setPaused(paused: boolean): Promise<void>;
  /** Waits for the end of a pause, or of the job. */
  whenNotPaused(): Promise<void>;
  /**
   * Hands the steering to a stage until it gives it back. `begin` starts what is steered: the limit holds from before
   * it, a pause from right after it, and wishes that come meanwhile wait until it is done.
   */
  steer(steering: Steering, begin: () => Promise<void>): Promise<() => Promise<void>>;
}

/** Why a job's signal aborts. */
export class JobCancelled extends Error {
  override readonly name = 'JobCancelled';
}

/** The control of a job that starts with a limit in MiB/s and a share in bytes a second; 0 is none. */
export function controlOf(
  limitMibps: number,
  nowMs: () => number = () => performance.now(),
  shareBytesPerSecond = 0,
): Control {
  const cancelled = new AbortController();
  let steering: Steering | undefined;
  let limit = limitMibps;
  let share = shareBytesPerSecond;
  const inForce = (): number => {
    const both = [limit * MIB, share].filter((each) => each > 0);
    return both.length === 0 ? 0 : Math.min(...both);
  };
  let isPaused = false;
  let resumed = Promise.withResolvers<undefined>();
  let movedAtMs = nowMs();
  /** What QEMU was told last is what was wished last. */
  const take = inTurn();
  // Who waits for the end of a pause must hear of the end of the job.
  cancelled.signal.addEventListener('abort', () => {
    resumed.resolve(undefined);
  });
  return {
    signal: cancelled.signal,
    get limitMibps() {
      return limit;
    },
    get bytesPerSecond() {
      return inForce();
    },
    get paused() {
      return isPaused;
    },
    get idleMs() {
      return isPaused ? 0 : nowMs() - movedAtMs;
    },
    cancel: () => {
      cancelled.abort(new JobCancelled('The operation was cancelled.'));
    },
    fail: (error) => {
      cancelled.abort(error);
    },
    moved: () => {
      movedAtMs = nowMs();
    },
    setLimit: (mibps) =>
      take(async () => {
        limit = mibps;
        await steering?.setLimit(inForce());
      }),
    setShare: (bytesPerSecond) =>
      take(async () => {
        share = bytesPerSecond;
        await steering?.setLimit(inForce());
      }),
    setPaused: (wanted) =>
      take(async () => {
        if (wanted === isPaused) return;
        await (wanted ? steering?.pause() : steering?.resume());
        isPaused = wanted;
        movedAtMs = nowMs();
        if (isPaused) resumed = Promise.withResolvers();
        else resumed.resolve(undefined);
      }),
    whenNotPaused: async () => {
      while (isPaused && !cancelled.signal.aborted) await resumed.promise;
    },
    steer: (taker, begin) =>
      take(async () => {
        await taker.setLimit(inForce());
        await begin();
        if (isPaused) await taker.pause();
        steering = taker;
        return () =>
          take(() => {
            steering = undefined;
            return Promise.resolve();
          });
      }),
  };
}
