import { readFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import pMap, { pMapSkip } from 'p-map';
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

/** Programs that look at images at the same time: a check holds two bytes for each cluster of its image in memory. */
export const IMAGES_AT_ONCE = 4;

/**
 * Checks the images, some at a time. All of them are looked at before damage ends it.
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
  const signal = AbortSignal.any([control.signal, repository.givenUp]);
  const checked = async (disk: CheckDisk): Promise<DiskVerification> => {
    await control.whenNotPaused();
    signal.throwIfAborted();
    const { leakedClusters } = await checkImage(disk, damage, context.runtimeDirectory, signal);
    return {
      ...{ target: disk.target, leakedClusters: BigInt(leakedClusters) },
      ...{ comparedChunks: 0n, totalChunks: 0n },
    };
  };
  const errors: unknown[] = [];
  const checkedOrNot = (disk: CheckDisk): Promise<DiskVerification | typeof pMapSkip> =>
    checked(disk).catch((error: unknown) => {
      errors.push(error);
      return pMapSkip;
    });
  const result = await whileSteered(control, disks.map(checkArgument), () =>
    pMap(disks, checkedOrNot, { concurrency: IMAGES_AT_ONCE }),
  );
  await requireSound(errors, repository, damage);
  for (const { target, leakedClusters } of result) {
    if (leakedClusters === 0n) continue;
    yield warning(
      'LEAKED_CLUSTERS',
      `The image of disk ${target} has ${leakedClusters} leaked clusters: wasted space, the data is intact.`,
      target,
    );
  }
  const bytes = BigInt(disks.reduce((sum, disk) => sum + disk.storedBytes, 0));
  return { result, figures: { processedBytes: bytes, totalBytes: bytes, inputBytes: bytes } };
}

const LOOK_EVERY_MS = 1_000;

/**
 * @throws the first error that is none of `damage`, since then nothing is proved; HoldfastError `damage` of all disks that
 *   have any
 */
async function requireSound(
  errors: readonly unknown[],
  repository: WatchedRepository,
  damage: Damage,
): Promise<void> {
  const found: HoldfastError[] = [];
  for (const error of errors) {
    if (!(error instanceof HoldfastError) || error.reason !== damage) throw error;
    found.push(error);
  }
  const [first] = found;
  if (first === undefined) return;
  await repository.answers();
  const message = found.map((each) => each.message).join(' ');
  throw new HoldfastError(damage, message, { metadata: { ...first.metadata }, cause: first });
}

/** Lets the programs that check images be paused, and notices when they read. */
async function whileSteered<Result>(
  control: Control,
  checkArguments: readonly string[],
  work: () => Promise<Result>,
): Promise<Result> {
  const over = new AbortController();
  const pids = (): Promise<readonly number[]> => processesWithArgument(...checkArguments);
  const signalAll = async (signal: NodeJS.Signals): Promise<void> => {
    for (const pid of await pids()) signalProcess(pid, signal);
  };
  const steering: Steering = {
    // It moves no data of a guest.
    setLimit: () => Promise.resolve(),
    pause: () => signalAll('SIGSTOP'),
    resume: () => signalAll('SIGCONT'),
  };
  const release = await control.steer(steering, () => Promise.resolve());
  void noteReads(control, pids, over.signal).catch(() => undefined);
  try {
    return await work();
  } finally {
    over.abort();
    await release();
  }
}

async function noteReads(
  control: Control,
  pids: () => Promise<readonly number[]>,
  signal: AbortSignal,
): Promise<void> {
  let before = '';
  for (;;) {
    await sleep(LOOK_EVERY_MS, undefined, { signal });
    const now = await Promise.all(
      (await pids()).map((pid) => readFile(`/proc/${pid}/io`, 'utf8').catch(() => '')),
    );
    if (now.join() !== before) control.moved();
    before = now.join();
  }
}
