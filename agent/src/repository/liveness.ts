import { setTimeout as sleep } from 'node:timers/promises';
import type { Repository } from './repository.ts';

const EVERY_MS = 10_000;
const POLL_MS = 500;

/**
 * Finds out that a repository has stopped answering while QEMU works on it: QEMU itself would wait for ever.
 *
 * @returns what to call again and again; it returns at once, and throws once the repository has been silent for too long.
 */
export function watchRepository(repository: Pick<Repository, 'answers'>, everyMs = EVERY_MS): () => void {
  let isAsking = false;
  let failure: unknown;
  let askedMs = -Infinity;
  return () => {
    if (failure !== undefined) throw failure as Error;
    const nowMs = performance.now();
    if (isAsking || nowMs - askedMs < everyMs) return;
    isAsking = true;
    askedMs = nowMs;
    repository.answers().then(
      () => {
        isAsking = false;
      },
      (error: unknown) => {
        failure = error;
      },
    );
  };
}

/** Waits for something that QEMU does on a repository, and no longer once that has been silent for too long. */
export async function whileItAnswers<Result>(
  repository: Pick<Repository, 'answers'>,
  work: Promise<Result>,
  everyMs = EVERY_MS,
): Promise<Result> {
  const requireAnswer = watchRepository(repository, everyMs);
  const over = new AbortController();
  const watch = async (): Promise<never> => {
    for (;;) {
      requireAnswer();
      await sleep(Math.min(POLL_MS, everyMs), undefined, { signal: over.signal });
    }
  };
  try {
    return await Promise.race([work, watch()]);
  } finally {
    over.abort();
  }
}
