import { mkdir, statfs } from 'node:fs/promises';
import { HoldfastError } from '@holdfast/common/errors.ts';

const MIB = 1_048_576;

/** At least this much stays free, so that a guest that writes fast does not fill the rest between two looks. */
const RESERVE_BYTES = 256 * MIB;
/** On a small file system the reserve is this part of it. */
const RESERVE_SHARE = 0.1;

/**
 * What the guest overwrites during a backup is kept in scratch space first, and its writes fail when that is full. So
 * the backup is given up while there still is some.
 *
 * @param directory on the local file system that holds the scratch images; made when it is not there
 * @throws HoldfastError SCRATCH_FULL
 */
export async function requireScratchSpace(directory: string): Promise<void> {
  await mkdir(directory, { recursive: true, mode: 0o711 });
  const { bsize, blocks, bavail } = await statfs(directory);
  const freeBytes = bsize * bavail;
  const reserveBytes = Math.min(RESERVE_BYTES, bsize * blocks * RESERVE_SHARE);
  if (freeBytes > reserveBytes) return;
  throw new HoldfastError(
    'SCRATCH_FULL',
    `Only ${Math.floor(freeBytes / MIB)} MiB are free in ${directory}, where the backup keeps what the guest overwrites ` +
      'meanwhile. It was not begun, or given up, so that no write of the guest fails. Make space, or set another ' +
      'scratch directory.',
  );
}
