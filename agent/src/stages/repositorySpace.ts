import { MIB } from '@holdfast/common/bytes.ts';
import { HoldfastError } from '@holdfast/common/errors.ts';
import { mapImage, totalBytes } from '../qemu/extents.ts';
import type { Space } from '../repository/operations.ts';
import type { JobContext } from './context.ts';

/** A disk whose image is to be made, as far as its data can be counted before a snapshot is taken. */
export interface SpaceDisk {
  readonly target: string;
  /** Bytes of data; undefined when they have not been counted. */
  readonly dataBytes: number | undefined;
  /** What the source takes at most: never less than its data. */
  readonly allocatedBytes: number;
  /** How to open the source for counting, without a lock; undefined when that cannot be done. */
  readonly options: object | undefined;
}

/** What must stay free on a repository. */
export function reserveBytes({ sizeBytes }: Pick<Space, 'sizeBytes'>, percent: number): number {
  return Math.floor((sizeBytes * percent) / 100);
}

/**
 * Refuses a backup that cannot fit, before anything is made. A source may be allocated without holding data, so its data
 * is counted when what it takes would not fit.
 *
 * @param storedRatio bytes stored for each byte of data; undefined when it is not known, and then only the reserve counts
 * @throws HoldfastError REPOSITORY_FULL
 */
export async function requireRepositorySpace(
  context: Pick<JobContext, 'runtimeDirectory' | 'control'>,
  repository: { readonly name: string; readonly space: Space },
  disks: readonly SpaceDisk[],
  { storedRatio, reservePercent }: { storedRatio: number | undefined; reservePercent: number },
): Promise<void> {
  const { name, space } = repository;
  const reserve = reserveBytes(space, reservePercent);
  if (reserve > 0 && space.freeBytes <= reserve) throw reserveReached(name, space, reserve);
  if (storedRatio === undefined) return;
  const fits = (dataBytes: number): boolean => dataBytes * storedRatio <= space.freeBytes - reserve;
  const atMost = disks.map(({ dataBytes, allocatedBytes }) => dataBytes ?? allocatedBytes);
  if (fits(sum(atMost))) return;
  const counted = sum(await Promise.all(disks.map((disk) => countData(context, disk))));
  if (fits(counted)) return;
  throw new HoldfastError(
    'REPOSITORY_FULL',
    `The backup needs about ${inMib(counted * storedRatio)} MiB (${inMib(counted)} MiB of data), and repository ${name} has ` +
      `${inMib(space.freeBytes)} MiB free, of which ${inMib(reserve)} are kept free ` +
      '(nas.backup.repository.reserve.percent). Nothing was made. Delete backups, or give it more space.',
    { metadata: { repository: name } },
  );
}

/** @throws HoldfastError REPOSITORY_FULL when a backup that runs has used what was to stay free */
export function requireReserve(name: string, space: Space | undefined, percent: number): void {
  if (space === undefined) return;
  const reserve = reserveBytes(space, percent);
  if (reserve > 0 && space.freeBytes < reserve) throw reserveReached(name, space, reserve);
}

function reserveReached(name: string, { freeBytes }: Space, reserve: number): HoldfastError {
  return new HoldfastError(
    'REPOSITORY_FULL',
    `Repository ${name} has ${inMib(freeBytes)} MiB free, and ${inMib(reserve)} are kept free ` +
      '(nas.backup.repository.reserve.percent). Delete backups, or give it more space.',
    { metadata: { repository: name } },
  );
}

/** The data of a disk in bytes; 0 when it cannot be counted, since what is not known is no reason to refuse. */
async function countData(
  { runtimeDirectory, control }: Pick<JobContext, 'runtimeDirectory' | 'control'>,
  { dataBytes, options }: SpaceDisk,
): Promise<number> {
  if (dataBytes !== undefined) return dataBytes;
  if (options === undefined) return 0;
  try {
    const { extents } = await mapImage(options, new Map(), runtimeDirectory, control.signal);
    return totalBytes(extents);
  } catch (error) {
    control.signal.throwIfAborted();
    if (error instanceof HoldfastError) return 0;
    throw error;
  }
}

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}

function inMib(bytes: number): number {
  return Math.ceil(bytes / MIB);
}
