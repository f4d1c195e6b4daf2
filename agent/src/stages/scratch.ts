import { mkdir, statfs, utimes } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { MIB } from '@holdfast/common/bytes.ts';
import { HoldfastError } from '@holdfast/common/errors.ts';

const SECOND = 1_000;

/** At least this much stays free. */
const RESERVE_BYTES = 256 * MIB;
/** On a small file system the reserve is this part of it. */
const RESERVE_SHARE = 0.1;

const LOOK_EVERY_MS = 100;
/** Between the last look and the end of libvirt's backup job the guest may go on as fast as it ever did. */
const REACTION_MS = 2 * SECOND;

/** Space on the file system that holds the scratch images. */
export interface ScratchSpace {
  readonly sizeBytes: number;
  readonly freeBytes: number;
}

/**
 * What the guest overwrites during a backup is kept in scratch space first, and its writes fail when that is full. So a
 * backup is not begun without some.
 *
 * @param directory on the local file system that holds the scratch images; made when it is not there
 * @throws HoldfastError SCRATCH_FULL, SCRATCH_FAILED
 */
export async function requireScratchSpace(directory: string): Promise<void> {
  const space = await mkdir(directory, { recursive: true, mode: 0o711 })
    .then(() => writableSpace(directory))
    .catch((error: unknown) => {
      throw scratchFailed(directory, error, 'not begun');
    });
  if (space.freeBytes <= reserveBytes(space, 0)) throw scratchFull(directory, space, 'not begun');
}

/** Looks after the scratch space of a backup that runs. */
export interface ScratchGuard {
  /** Why the backup was given up; undefined while there is space. */
  readonly failure: HoldfastError | undefined;
  close(): void;
}

/**
 * Gives a backup up while there still is scratch space: `giveUp` lets the guest go at once, whatever else the job is busy
 * with. How early follows how fast the guest has filled the space so far.
 *
 * @param giveUp ends libvirt's backup job; when it fails, the job's undo log tries again
 */
export function guardScratch(
  directory: string,
  giveUp: () => Promise<void>,
  space: (directory: string) => Promise<ScratchSpace> = writableSpace,
): ScratchGuard {
  const closed = new AbortController();
  let failure: HoldfastError | undefined;
  let last: { readonly freeBytes: number; readonly atMs: number } | undefined;
  let fastestBytesPerMs = 0;

  const look = async (): Promise<void> => {
    const found = await space(directory).catch(async (error: unknown) => {
      failure = scratchFailed(directory, error, 'given up');
      await giveUp();
    });
    if (found === undefined) return;
    const atMs = performance.now();
    if (last !== undefined) {
      fastestBytesPerMs = Math.max(
        fastestBytesPerMs,
        (last.freeBytes - found.freeBytes) / (atMs - last.atMs),
      );
    }
    last = { freeBytes: found.freeBytes, atMs };
    if (found.freeBytes > reserveBytes(found, fastestBytesPerMs)) return;
    failure = scratchFull(directory, found, 'given up');
    await giveUp();
  };
  const watch = async (): Promise<void> => {
    while (!closed.signal.aborted && failure === undefined) {
      // Giving up is tried again by the undo log.
      await look().catch(() => undefined);
      await sleep(LOOK_EVERY_MS, undefined, { signal: closed.signal }).catch(() => undefined);
    }
  };
  void watch();
  return {
    get failure() {
      return failure;
    },
    close: () => {
      closed.abort();
    },
  };
}

/** What must stay free when the guest fills `bytesPerMs`. */
function reserveBytes({ sizeBytes }: ScratchSpace, bytesPerMs: number): number {
  return Math.max(Math.min(RESERVE_BYTES, sizeBytes * RESERVE_SHARE), bytesPerMs * REACTION_MS);
}

export async function scratchSpace(directory: string): Promise<ScratchSpace> {
  const { bsize, blocks, bavail } = await statfs(directory);
  return { sizeBytes: bsize * blocks, freeBytes: bsize * bavail };
}

/** What is written to it changes nothing but a time; on a file system that became read-only after an error it fails. */
async function writableSpace(directory: string): Promise<ScratchSpace> {
  const now = new Date();
  await utimes(directory, now, now);
  return scratchSpace(directory);
}

function scratchFailed(directory: string, cause: unknown, what: string): HoldfastError {
  return new HoldfastError(
    'SCRATCH_FAILED',
    `${directory}, where the backup keeps what the guest overwrites meanwhile, cannot be written to: ` +
      `${cause instanceof Error ? cause.message : String(cause)} It was ${what}. Repair it, set another scratch directory, ` +
      'or push.',
    { cause },
  );
}

function scratchFull(directory: string, { freeBytes }: ScratchSpace, what: string): HoldfastError {
  return new HoldfastError(
    'SCRATCH_FULL',
    `Only ${Math.floor(freeBytes / MIB)} MiB are free in ${directory}, where the backup keeps what the guest overwrites ` +
      `meanwhile. It was ${what}, so that no write of the guest fails. Make space, or set another scratch directory.`,
  );
}
