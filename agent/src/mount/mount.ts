import { mkdir, stat } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { RepositoryType } from '@holdfast/proto/holdfast/v1/repository.ts';
import { lockAlone, type FileLock } from '@holdfast/common/fileLock.ts';
import { ProgramFailed, type RunResult } from '../process/run.ts';
import { cephPlan } from './ceph.ts';
import { cifsPlan } from './cifs.ts';
import { nfsPlan } from './nfs.ts';
import type { MountPlace } from './place.ts';
import { MOUNT_DEADLINE_MS, type MountPlan, type MountSource } from './plan.ts';
import { deviceText, mountAt, type Mount } from './table.ts';
import { unmountNow } from './unmount.ts';
import { RepositoryProblem } from '../repository/problem.ts';

const POLL_MS = 50;
/** How mount(8) and its helpers say that nobody answered. */
const NOT_ANSWERED = /timed? ?out|no route|unreachable|refused|host is down|\(11[0123]\)/i;
/** How mount(8) and its helpers say that the host lacks something. */
const NOT_INSTALLED = /no such device|unknown filesystem type|helper program/i;

/** How a repository of this type is mounted. */
export function mountPlan(source: MountSource): MountPlan {
  const plan = planOf(source);
  if (source.credentials?.password !== '') return plan;
  // What is mounted already needs none.
  const unknown = new RepositoryProblem(
    'MOUNT_FAILED',
    'Its password is not known to this process, which found it in a journal. It comes again with the controller.',
  );
  return { ...plan, mount: () => Promise.reject(unknown) };
}

function planOf(source: MountSource): MountPlan {
  switch (source.type) {
    case RepositoryType.REPOSITORY_TYPE_NFS:
      return nfsPlan(source);
    case RepositoryType.REPOSITORY_TYPE_CIFS:
      return cifsPlan(source);
    case RepositoryType.REPOSITORY_TYPE_CEPH:
      return cephPlan(source);
    case RepositoryType.REPOSITORY_TYPE_LOCAL:
    case RepositoryType.REPOSITORY_TYPE_UNSPECIFIED:
    case RepositoryType.UNRECOGNIZED:
      throw new TypeError(`a repository of type ${source.type} is not mounted`);
  }
}

/**
 * Sees to it that something is mounted at a place, and that it is what was asked for: by this process, or by another
 * before it. The caller's side holds the place's `users` lock all the time, so that nobody unmounts it.
 *
 * @returns the device number of the mount, by which it is told from the empty directory below it
 * @throws RepositoryProblem MOUNT_FAILED, REPOSITORY_STALLED, REPOSITORY_UNUSABLE when it can only be read
 */
export async function ensureMounted(place: MountPlace, plan: MountPlan): Promise<bigint> {
  await mkdir(place.point, { recursive: true, mode: 0o700 });
  const turn = await takeTurn(place.turn);
  try {
    const there = await mountAt(place.point);
    if (there !== undefined) return await prove(place, plan, there);
    await mountNew(place, plan);
    try {
      return await prove(place, plan, await mountAt(place.point));
    } catch (error) {
      await unmountNow(place);
      throw error;
    }
  } finally {
    turn.release();
  }
}

/** Whether the path still leads into the mount that was proved. */
export async function requireMounted(point: string, device: bigint): Promise<void> {
  const found = await stat(point, { bigint: true });
  if (found.dev === device) return;
  throw new RepositoryProblem(
    'REPOSITORY_FAILED',
    'It was unmounted by somebody else. Nothing was written beside it.',
  );
}

async function takeTurn(path: string): Promise<FileLock> {
  const endMs = Date.now() + MOUNT_DEADLINE_MS;
  for (;;) {
    const turn = lockAlone(path);
    if (turn !== undefined) return turn;
    if (Date.now() > endMs) {
      throw new RepositoryProblem(
        'REPOSITORY_STALLED',
        'Another process of this host is still trying to mount it.',
      );
    }
    await sleep(POLL_MS);
  }
}

async function mountNew(place: MountPlace, plan: MountPlan): Promise<void> {
  let result: RunResult;
  try {
    result = await plan.mount(place);
  } catch (error) {
    if (!(error instanceof ProgramFailed)) throw error;
    const isLate = error.message.includes('did not end');
    throw new RepositoryProblem(
      isLate ? 'REPOSITORY_STALLED' : 'MOUNT_FAILED',
      isLate
        ? `The server did not answer within ${MOUNT_DEADLINE_MS / 1_000} s. Is the address right, and the NAS up?`
        : `This host cannot mount it: ${error.message}`,
      { cause: error },
    );
  }
  if (result.exitCode === 0) return;
  throw mountError(result.stderr);
}

function mountError(stderr: string): RepositoryProblem {
  // The rest points to manual pages and to dmesg.
  const said = stderr
    .split('\n')
    // A line of ceph-fuse's log may stand in the middle of another one.
    .map((line) => line.replace(/\d{4}-\d\d-\d\dT.*/, '').trim())
    .filter((line) => line !== '' && !/^refer to|dmesg|starting ceph client/i.test(line))
    .join('; ');
  if (NOT_INSTALLED.test(said)) {
    return new RepositoryProblem(
      'MOUNT_FAILED',
      `This host's kernel or its packages lack the client for it (Debian: nfs-common, cifs-utils, ceph-fuse): ${said}`,
    );
  }
  if (NOT_ANSWERED.test(said)) {
    return new RepositoryProblem('REPOSITORY_STALLED', `The server does not answer: ${said}`);
  }
  return new RepositoryProblem(
    'MOUNT_FAILED',
    `It could not be mounted: ${said === '' ? 'mount gave no reason' : said}. Check address, credentials and options.`,
  );
}

/** A mount point is also there when nothing is mounted: what counts is what the kernel says, and that files are on it. */
async function prove(place: MountPlace, plan: MountPlan, mount: Mount | undefined): Promise<bigint> {
  if (mount === undefined) {
    throw new RepositoryProblem('MOUNT_FAILED', 'mount said that it was mounted, and it is not.');
  }
  if (!plan.fileSystems.includes(mount.fileSystem)) {
    throw new RepositoryProblem(
      'MOUNT_FAILED',
      `${place.point} has something else on it: ${mount.fileSystem}.`,
    );
  }
  if (mount.readOnly) {
    throw new RepositoryProblem(
      'REPOSITORY_UNUSABLE',
      'It can only be mounted read-only here, and backups are written to it. Is it mounted read-only elsewhere on this host?',
    );
  }
  const { dev } = await stat(place.point, { bigint: true });
  if (deviceText(dev) !== mount.device) {
    throw new RepositoryProblem('MOUNT_FAILED', `${place.point} does not lead into what is mounted there.`);
  }
  return dev;
}
