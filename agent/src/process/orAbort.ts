/** Waits for something, or until the signal aborts, and leaves no listener behind: a job waits very often. */
export function orAbort<Result>(work: Promise<Result>, signal: AbortSignal): Promise<Result> {
  return new Promise((resolve, reject) => {
    const abort = (): void => {
      reject(signal.reason as Error);
    };
    const settle = (): void => {
      signal.removeEventListener('abort', abort);
    };
    signal.addEventListener('abort', abort);
    if (signal.aborted) abort();
    work.finally(settle).then(resolve, reject);
  });
}
