import { readFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { HoldfastError } from '@holdfast/common/errors.ts';
import type { DiskVerification } from '@holdfast/proto/holdfast/v1/event.ts';
import type { Control, Steering } from '../jobs/control.ts';
import type { JobEvent } from '../jobs/eventLog.ts';
import { processesWithArgument, signalProcess } from '../process/identity.ts';
import { checkArgument, checkImage, type Damage, type ImageToCheck } from '../qemu/imageCheck.ts';
import type { WatchedRepository } from '../repository/liveness.ts';
import { warning, type JobContext, type StageEnd } from './context.ts';

export interface CheckDisk extends ImageToCheck {
  /** The length of the file, for the figures. */
  readonly storedBytes: number;
}

/**
 * Checks the images, one after the other.
 *
 * @throws HoldfastError `damage`; what the repository itself answers when that fails, which proves nothing about the images
 */
export async function* check(
  context: Pick<JobContext, 'control' | 'runtimeDirectory'>,
  repository: WatchedRepository,
  disks: readonly CheckDisk[],
  damage: Damage,
): AsyncGenerator<JobEvent, StageEnd<readonly DiskVerification[]>, undefined> {
  const { control } = context;
  const result: DiskVerification[] = [];
  for (const disk of disks) {
    await control.whenNotPaused();
    const signal = AbortSignal.any([control.signal, repository.givenUp]);
    signal.throwIfAborted();
    const { leakedClusters } = await whileSteered(control, disk, () =>
      checkImage(disk, damage, context.runtimeDirectory, signal),
    ).catch(async (error: unknown) => {
      if (error instanceof HoldfastError && error.reason === damage) await repository.answers();
      throw error;
    });
    if (leakedClusters > 0) {
      yield warning(
        'LEAKED_CLUSTERS',
        `The image of disk ${disk.target} has ${leakedClusters} leaked clusters: wasted space, the data is intact.`,
        disk.target,
      );
    }
    result.push({
      ...{ target: disk.target, leakedClusters: BigInt(leakedClusters) },
      ...{ comparedChunks: 0n, totalChunks: 0n },
    });
  }
  const bytes = BigInt(disks.reduce((sum, disk) => sum + disk.storedBytes, 0));
  return { result, figures: { processedBytes: bytes, totalBytes: bytes, inputBytes: bytes } };
}

const LOOK_EVERY_MS = 1_000;

/** Lets the program that checks an image be paused, and notices when it reads. */
async function whileSteered<Result>(
  control: Control,
  image: ImageToCheck,
  work: () => Promise<Result>,
): Promise<Result> {
  const argument = checkArgument(image);
  const over = new AbortController();
  const signalAll = async (signal: NodeJS.Signals): Promise<void> => {
    for (const pid of await processesWithArgument(argument)) signalProcess(pid, signal);
  };
  const steering: Steering = {
    // It moves no data of a guest.
    setLimit: () => Promise.resolve(),
    pause: () => signalAll('SIGSTOP'),
    resume: () => signalAll('SIGCONT'),
  };
  const release = await control.steer(steering, () => Promise.resolve());
  void noteReads(control, argument, over.signal).catch(() => undefined);
  try {
    return await work();
  } finally {
    over.abort();
    await release();
  }
}

async function noteReads(control: Control, argument: string, signal: AbortSignal): Promise<void> {
  let before = '';
  for (;;) {
    await sleep(LOOK_EVERY_MS, undefined, { signal });
    const now = await Promise.all(
      (await processesWithArgument(argument)).map((pid) =>
        readFile(`/proc/${pid}/io`, 'utf8').catch(() => ''),
      ),
    );
    if (now.join() !== before) control.moved();
    before = now.join();
  }
}
