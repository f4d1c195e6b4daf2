import { HoldfastError } from '@holdfast/common/errors.ts';
import { together } from '../process/together.ts';
import { QmpError } from '../qemu/qmp.ts';
import { partialFolder } from '../repository/layout.ts';
import type { Transport } from '../transport/transport.ts';
import { closeTarget } from './openTarget.ts';
import type { Prepared } from './prepare.ts';

/** Makes the files complete and durable, and lets the guest go meanwhile. As `closeImages`. */
export async function finishImages(
  prepared: Prepared,
  transport: Transport,
): Promise<ReadonlyMap<string, number>> {
  const [storedBytes] = await together(closeImages(prepared), transport.end());
  return storedBytes;
}

/**
 * A finished job is not yet a complete file.
 *
 * @returns the lengths of the image files by target name.
 * @throws HoldfastError REPOSITORY_FULL, REPOSITORY_FAILED when something that was written did not reach the repository,
 *   REPOSITORY_STALLED
 */
async function closeImages(prepared: Prepared): Promise<ReadonlyMap<string, number>> {
  const { repository, daemon, layout } = prepared;
  const folder = partialFolder(prepared.folder);
  for (const disk of prepared.disks) {
    const path = repository.pathOf(`${folder}/${disk.file}`);
    const closed = closeTarget(daemon, { ...disk, layout, path });
    await repository.whileAnswering(closed).catch((error: unknown) => {
      if (!(error instanceof QmpError)) throw error;
      throw new HoldfastError(
        /no space left|quota exceeded/i.test(error.description) ? 'REPOSITORY_FULL' : 'REPOSITORY_FAILED',
        `The image of disk ${disk.disk.target} could not be completed on repository ${repository.name}: ` +
          error.description,
        { cause: error },
      );
    });
  }
  await daemon.quit();
  await prepared.daemonStop.forget();
  const bytes = new Map<string, number>();
  for (const disk of prepared.disks) {
    bytes.set(disk.disk.target, (await repository.syncFile(`${folder}/${disk.file}`)).bytes);
  }
  return bytes;
}
