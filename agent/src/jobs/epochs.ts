import { HoldfastError } from '@holdfast/common/errors.ts';

/** Keeps a controller that was replaced from commanding a job that its successor took over. */
export interface Epochs {
  /**
   * Takes note of the epoch of a controller that starts or attaches to a job.
   *
   * @throws HoldfastError STALE_EPOCH when a newer controller has the job.
   */
  accept(jobId: string, epoch: bigint): void;
  /** @throws HoldfastError STALE_EPOCH when the epoch is not the job's newest any more. */
  require(jobId: string, epoch: bigint): void;
}

export function epochs(): Epochs {
  const newest = new Map<string, bigint>();
  const require = (jobId: string, epoch: bigint): void => {
    const known = newest.get(jobId);
    if (known === undefined || epoch >= known) return;
    throw new HoldfastError(
      'STALE_EPOCH',
      `A newer controller (epoch ${known}) has taken job ${jobId} over; this one has epoch ${epoch}.`,
    );
  };
  return {
    require,
    accept: (jobId, epoch) => {
      require(jobId, epoch);
      newest.set(jobId, epoch);
    },
  };
}
