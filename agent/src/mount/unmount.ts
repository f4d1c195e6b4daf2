import { existsSync } from 'node:fs';
import { readdir, rm, rmdir } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { lockAlone } from '@holdfast/common/fileLock.ts';
import { ProgramFailed, run } from '../process/run.ts';
import { isPrivate, placeAt, type MountPlace } from './place.ts';
import { mountAt } from './table.ts';

/**
 * How an attempt to unmount ended: nothing is mounted any more; another process uses it; or something else does, so that
 * it was taken out of the tree and goes away with its last user.
 */
export type Unmounted = 'gone' | 'used' | 'lazily';

/** What keeps a mount busy for a moment is a scanner, or a shell. */
const ATTEMPTS = 10;
const ATTEMPT_WAIT_MS = 500;
const UMOUNT_DEADLINE_MS = 10_000;
/** All attempts, and as much again. */
const DEADLINE_MS = 60_000;
const PROGRAM = fileURLToPath(new URL('./unmounter.ts', import.meta.url));

/**
 * Unmounts a place that no process uses. Works in a process of its own: umount(2) can wait for a NAS for ever.
 *
 * @throws ProgramFailed
 */
export async function unmountUnused(place: MountPlace): Promise<Unmounted> {
  const late = new AbortController();
  try {
    const result = await Promise.race([
      run(process.execPath, [PROGRAM, place.directory], { deadlineMs: DEADLINE_MS }),
      // A process that the kernel does not let go is left to it.
      sleep(DEADLINE_MS + UMOUNT_DEADLINE_MS, undefined, { ref: false, signal: late.signal }).then(() => {
        throw new ProgramFailed(`umount ${place.point} does not end`);
      }),
    ]);
    if (result.exitCode !== 0) throw new ProgramFailed(`umount ${place.point}: ${result.stderr.trim()}`);
    return result.stdout.trim() as Unmounted;
  } finally {
    late.abort();
  }
}

/**
 * Unmounts all that killed processes have left.
 *
 * @returns the places that could not be unmounted as they should be, and why
 */
export async function unmountLeft(mountsDirectory: string): Promise<readonly string[]> {
  const names = await readdir(mountsDirectory).catch(() => []);
  const ends = await Promise.all(
    names.map(async (name) => {
      const place = placeAt(join(mountsDirectory, name));
      try {
        return (await unmountUnused(place)) === 'lazily' ? lazyText(place) : undefined;
      } catch (error) {
        return error instanceof Error ? error.message : String(error);
      }
    }),
  );
  return ends.filter((end) => end !== undefined);
}

/** What to tell of a lazy unmount. */
export function lazyText(place: MountPlace): string {
  return `${place.point} was busy, so it was unmounted lazily: it goes away with the last process that uses it.`;
}

/** As unmountUnused, in this process. */
export async function unmountHere(place: MountPlace): Promise<Unmounted> {
  if (!existsSync(place.directory)) return 'gone';
  const alone = lockAlone(place.users);
  if (alone === undefined) return 'used';
  try {
    const end = await unmountNow(place);
    await removePoint(place);
    return end;
  } finally {
    alone.release();
    // Nobody comes back to it.
    if (isPrivate(place) && !existsSync(place.point))
      await rm(place.directory, { recursive: true, force: true });
  }
}

/** Unmounts, whoever uses it. */
export async function unmountNow(place: MountPlace): Promise<Unmounted> {
  let isHung = false;
  for (let attempt = 0; attempt < ATTEMPTS && !isHung; attempt++) {
    if ((await mountAt(place.point)) === undefined) return 'gone';
    try {
      await umount(place, []);
    } catch (error) {
      if (!(error instanceof ProgramFailed)) throw error;
      isHung = true;
    }
    if ((await mountAt(place.point)) === undefined) return 'gone';
    await sleep(ATTEMPT_WAIT_MS);
  }
  // Force gives up requests to a server that does not answer; a healthy mount that is busy must not lose any.
  const { stderr } = await umount(place, isHung ? ['--force', '--lazy'] : ['--lazy']);
  if ((await mountAt(place.point)) !== undefined) throw new ProgramFailed(`umount --lazy: ${stderr.trim()}`);
  return 'lazily';
}

/** Without canonicalising the path and without helpers: both would ask the server. */
function umount(place: MountPlace, flags: readonly string[]): ReturnType<typeof run> {
  return run('umount', ['--no-canonicalize', '--internal-only', ...flags, '--', place.point], {
    deadlineMs: UMOUNT_DEADLINE_MS,
  });
}

/** What somebody put into the empty directory is theirs, and stays. */
async function removePoint(place: MountPlace): Promise<void> {
  if ((await mountAt(place.point)) !== undefined) return;
  await rmdir(place.point).catch((error: unknown) => {
    if (!['ENOENT', 'ENOTEMPTY'].includes((error as NodeJS.ErrnoException).code ?? '')) throw error;
  });
}
