import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';

/** So long may a stage take to notice that its job is cancelled; then its process ends without it. */
const ABANDON_AFTER_MS = 3_000;

/**
 * Waits for work, and no longer than three seconds once the signal has aborted.
 *
 * @throws the signal's reason when it was waited for no longer
 */
export async function orAbandoned<Result>(work: Promise<Result>, signal: AbortSignal): Promise<Result> {
  const settled = new AbortController();
  const abandoned = async (): Promise<never> => {
    if (!signal.aborted) await once(signal, 'abort', { signal: settled.signal });
    await sleep(ABANDON_AFTER_MS, undefined, { signal: settled.signal });
    throw signal.reason;
  };
  try {
    return await Promise.race([work, abandoned()]);
  } finally {
    settled.abort();
  }
}
