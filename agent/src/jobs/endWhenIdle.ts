import { setTimeout as sleep } from 'node:timers/promises';
import { HoldfastError } from '@holdfast/common/errors.ts';
import type { Control } from './control.ts';

export interface IdleLimit {
  /** 0: for ever. */
  readonly timeoutMs: number;
  /** A repository that is stalled has a limit of its own. */
  readonly isStalled: () => boolean;
  /** Ends the watch. */
  readonly signal: AbortSignal;
  readonly everyMs?: number;
  /** The rest of what is said to the user, for work that makes nothing. */
  readonly what?: string;
}

const LOOK_EVERY_MS = 1_000;
const LOOK_AFTER_SOURCE =
  'What had been made was removed. Look after the storage that it read from, and try again.';

/** Fails a job with TIMED_OUT when nothing has moved for too long. Returns once it has, or when the watch is over. */
export async function endWhenIdle(
  control: Control,
  { timeoutMs, isStalled, signal, everyMs = LOOK_EVERY_MS, what = LOOK_AFTER_SOURCE }: IdleLimit,
): Promise<void> {
  while (timeoutMs > 0 && !signal.aborted) {
    if (isStalled()) control.moved();
    if (control.idleMs > timeoutMs) {
      control.fail(timedOut(timeoutMs, what));
      return;
    }
    await sleep(everyMs, undefined, { signal, ref: false }).catch(() => undefined);
  }
}

function timedOut(timeoutMs: number, what: string): HoldfastError {
  return new HoldfastError(
    'TIMED_OUT',
    `Nothing has moved for ${Math.round(timeoutMs / 60_000)} minutes (nas.backup.timeout.minutes). ${what}`,
  );
}
