import { HoldfastError } from '@holdfast/common/errors.ts';
import { fileStateOf } from '../process/fileState.ts';
import type { PreparedDisk } from './prepare.ts';

/**
 * Makes sure that nobody has written to the images of a stopped domain since they were looked at first: another host may have
 * started it, or a tool may have changed them.
 *
 * @throws HoldfastError IMAGE_CHANGED
 */
export async function requireUnchanged(
  disks: readonly Pick<PreparedDisk, 'disk' | 'stopped'>[],
): Promise<void> {
  for (const { disk, stopped } of disks) {
    if (stopped?.fileState === undefined || (await fileStateOf(disk.source)) === stopped.fileState) continue;
    throw new HoldfastError(
      'IMAGE_CHANGED',
      `Disk ${disk.target} (${disk.source}): the image was written to or replaced while it was read, although the ` +
        'domain is shut off on this host; the copy was thrown away. When another host runs the domain, take the backup there.',
      { metadata: { disk: disk.target } },
    );
  }
}
