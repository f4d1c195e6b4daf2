import { HoldfastError } from '@holdfast/common/errors.ts';
import type { DiskVerification } from '@holdfast/proto/holdfast/v1/event.ts';
import type { JobEvent } from '../jobs/eventLog.ts';
import { checkImage, type Damage, type ImageToCheck } from '../qemu/imageCheck.ts';
import type { Repository } from '../repository/repository.ts';
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
  repository: Pick<Repository, 'answers'>,
  disks: readonly CheckDisk[],
  damage: Damage,
): AsyncGenerator<JobEvent, StageEnd<readonly DiskVerification[]>, undefined> {
  const result: DiskVerification[] = [];
  for (const disk of disks) {
    const { leakedClusters } = await checkImage(
      disk,
      damage,
      context.runtimeDirectory,
      context.control.signal,
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
    result.push({ target: disk.target, leakedClusters: BigInt(leakedClusters) });
  }
  const bytes = BigInt(disks.reduce((sum, disk) => sum + disk.storedBytes, 0));
  return { result, figures: { processedBytes: bytes, totalBytes: bytes, inputBytes: bytes } };
}
