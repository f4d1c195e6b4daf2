import type { Repository } from './repository.ts';

const EVERY_MS = 10_000;

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
