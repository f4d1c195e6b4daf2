import { mkdir, open, readFile, rename } from 'node:fs/promises';
import { join } from 'node:path';
import { HoldfastError } from '@holdfast/common/errors.ts';
import { isUuid } from '@holdfast/common/uuid.ts';
import { inTurn } from '../process/inTurn.ts';

/**
 * Keeps a controller that was replaced from commanding a job that its successor took over. The newest epoch of a job is
 * a file in the job's directory, so that an agent that was started again knows it too.
 */
export interface Epochs {
  /**
   * Takes note of the epoch of a controller that starts or attaches to a job; durable when it returns.
   *
   * @throws HoldfastError STALE_EPOCH when a newer controller has the job.
   */
  accept(jobId: string, epoch: bigint): Promise<void>;
  /** @throws HoldfastError STALE_EPOCH when the epoch is not the job's newest any more. */
  require(jobId: string, epoch: bigint): Promise<void>;
}

/** @param root has a directory for each job, named by its id; those that are missing are made */
export function epochs(root: string): Epochs {
  const newest = new Map<string, bigint>();
  /** A lower epoch is never written over a higher one. */
  const write = inTurn();
  const require = async (jobId: string, epoch: bigint): Promise<void> => {
    if (!isUuid(jobId)) throw new HoldfastError('INVALID_REQUEST', 'job_id must be a UUID.');
    const known = newest.get(jobId) ?? (await readEpoch(epochFile(root, jobId)));
    if (known === undefined || epoch >= known) return;
    throw new HoldfastError(
      'STALE_EPOCH',
      `A newer controller (epoch ${known}) has taken job ${jobId} over; this one has epoch ${epoch}.`,
      { metadata: { epoch: String(known) } },
    );
  };
  return {
    require,
    accept: (jobId, epoch) =>
      write(async () => {
        await require(jobId, epoch);
        if (newest.get(jobId) === epoch) return;
        await mkdir(join(root, jobId), { recursive: true, mode: 0o700 });
        await writeEpoch(epochFile(root, jobId), epoch);
        newest.set(jobId, epoch);
      }),
  };
}

function epochFile(root: string, jobId: string): string {
  return join(root, jobId, 'epoch');
}

async function readEpoch(path: string): Promise<bigint | undefined> {
  const text = await readFile(path, 'utf8').catch((error: unknown) => {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw error;
  });
  return text === undefined ? undefined : BigInt(text);
}

/** Whole or not at all, whenever the host loses power. */
async function writeEpoch(path: string, epoch: bigint): Promise<void> {
  const temporary = `${path}.new`;
  const file = await open(temporary, 'w', 0o600);
  try {
    await file.writeFile(epoch.toString());
    await file.datasync();
  } finally {
    await file.close();
  }
  await rename(temporary, path);
  const directory = await open(join(path, '..'));
  await directory.sync().finally(() => directory.close());
}
