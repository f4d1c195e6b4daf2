import { randomUUID } from 'node:crypto';
import { mkdir, rm, rmdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { HoldfastError } from '@holdfast/common/errors.ts';
import type { Secret } from '@holdfast/common/secret.ts';
import type { Virsh } from '../libvirt/virsh.ts';
import { ProgramFailed, run, type RunResult } from '../process/run.ts';
import { clusterKey } from './clusterKey.ts';
import { rbdPath, type RbdCluster, type RbdImage } from './rbdImage.ts';

/** librbd waits for ever for a cluster that is away, and for one that does not take its key any more. */
const DEADLINE_MS = 30_000;
const CONNECT_SECONDS = 10;
/** Removing an image takes a request for each of its objects. */
const REMOVAL_DEADLINE_MS = 10 * 60_000;

/** rbd(8) ends with the errno. */
const ENOENT = 2;
const EBUSY = 16;
const EEXIST = 17;

/** A client that was killed counts as one for another 30 seconds (osd_client_watch_timeout). */
const WATCH_DEADLINE_MS = 60_000;
const RETRY_MS = 2_000;

/** What is done to images beside reading and writing them, which QEMU does. */
export interface Rbd {
  /**
   * What an image is.
   *
   * @throws HoldfastError VOLUME_NOT_FOUND
   */
  info(image: RbdImage): Promise<RbdInfo>;
  /** The same; undefined without such an image. */
  find(image: RbdImage): Promise<RbdInfo | undefined>;
  createSnapshot(image: RbdImage, snapshot: string): Promise<void>;
  /** The names of an image's snapshots; none without such an image. */
  snapshots(image: RbdImage): Promise<readonly string[]>;
  /** Finds nothing to do when there is no such snapshot or image. */
  removeSnapshot(image: RbdImage, snapshot: string): Promise<void>;
  /**
   * Makes an empty image.
   *
   * @throws HoldfastError VOLUME_NOT_FOUND without such a pool, TARGET_EXISTS
   */
  create(image: RbdImage, sizeBytes: number): Promise<void>;
  /** Gives an image another name in its pool. @throws HoldfastError TARGET_EXISTS */
  rename(image: RbdImage, name: string): Promise<void>;
  /** Finds nothing to do when there is no such image. */
  remove(image: RbdImage): Promise<void>;
}

export interface RbdInfo {
  /** Stays when the image is renamed, and is never used again. */
  readonly id: string;
  readonly sizeBytes: number;
}

/**
 * The images of any cluster, through Ceph's own tool. Every method throws HoldfastError VOLUME_REFUSED when the key is
 * missing or not accepted, VOLUME_STALLED when the cluster does not answer, and DISK_UNSUPPORTED without the tool.
 *
 * @param directory 0700 and on tmpfs, for the file with the key while the tool runs; made when it is not there
 */
export function rbdWith(virsh: Virsh, directory: string): Rbd {
  const attempt = async (
    cluster: RbdCluster,
    args: readonly string[],
    deadlineMs = DEADLINE_MS,
  ): Promise<RunResult> => {
    const key = await clusterKey(virsh, cluster);
    const result = await withKeyFile(directory, key, (keyArgs) =>
      run('rbd', [...clusterArgs(cluster), ...keyArgs, ...args], { deadlineMs, signal: virsh.signal }),
    ).catch((error: unknown) => {
      if (!(error instanceof ProgramFailed)) throw error;
      if (error.isMissing) {
        throw new HoldfastError(
          'DISK_UNSUPPORTED',
          `RBD images need Ceph's program rbd on this host (package ceph-common): ${error.message}`,
          { cause: error },
        );
      }
      throw new HoldfastError('VOLUME_STALLED', `${describe(cluster)} does not answer: ${error.message}.`, {
        cause: error,
      });
    });
    if (result.exitCode !== 0 && isRefusal(result.stderr)) {
      throw new HoldfastError(
        'VOLUME_REFUSED',
        `${describe(cluster)} refuses client.${cluster.user || 'admin'}: ${saidBy(result.stderr)}`,
      );
    }
    if (result.exitCode !== 0 && /timed out/i.test(result.stderr)) {
      throw new HoldfastError(
        'VOLUME_STALLED',
        `${describe(cluster)} did not answer in time: ${saidBy(result.stderr)}`,
      );
    }
    return result;
  };
  const find: Rbd['find'] = async (image) => {
    const result = await attempt(image.cluster, ['info', '--format=json', rbdPath(image)]);
    if (result.exitCode === ENOENT) {
      if (/error opening (default )?pool|error opening namespace/.test(result.stderr))
        throw noSuch(image, result);
      return undefined;
    }
    requireSuccess(image, result);
    const { id, size } = JSON.parse(result.stdout) as { id: string; size: number };
    return { id, sizeBytes: size };
  };
  return {
    find,
    info: async (image) => {
      const found = await find(image);
      if (found !== undefined) return found;
      throw new HoldfastError('VOLUME_NOT_FOUND', `There is no RBD image ${rbdPath(image)}.`);
    },
    createSnapshot: async (image, snapshot) => {
      const args = ['snap', 'create', '--no-progress', `${rbdPath(image)}@${snapshot}`];
      requireSuccess(image, await attempt(image.cluster, args));
    },
    snapshots: async (image) => {
      const result = await attempt(image.cluster, ['snap', 'ls', '--format=json', rbdPath(image)]);
      if (result.exitCode === ENOENT) return [];
      requireSuccess(image, result);
      return (JSON.parse(result.stdout) as { name: string }[]).map(({ name }) => name);
    },
    removeSnapshot: async (image, snapshot) => {
      const args = ['snap', 'rm', '--no-progress', `${rbdPath(image)}@${snapshot}`];
      const result = await attempt(image.cluster, args, REMOVAL_DEADLINE_MS);
      if (result.exitCode !== ENOENT) requireSuccess(image, result);
    },
    create: async (image, sizeBytes) => {
      const result = await attempt(image.cluster, ['create', `--size=${sizeBytes}B`, rbdPath(image)]);
      if (result.exitCode === EEXIST) throw imageExists(image);
      requireSuccess(image, result);
    },
    rename: async (image, name) => {
      const renamed = { ...image, name };
      const result = await attempt(image.cluster, ['rename', rbdPath(image), rbdPath(renamed)]);
      if (result.exitCode === EEXIST) throw imageExists(renamed);
      requireSuccess(image, result);
    },
    remove: async (image) => {
      const args = ['rm', '--no-progress', rbdPath(image)];
      const giveUp = Date.now() + WATCH_DEADLINE_MS;
      let result = await attempt(image.cluster, args, REMOVAL_DEADLINE_MS);
      while (result.exitCode === EBUSY && Date.now() < giveUp) {
        await sleep(RETRY_MS);
        result = await attempt(image.cluster, args, REMOVAL_DEADLINE_MS);
      }
      if (result.exitCode !== ENOENT) requireSuccess(image, result);
    },
  };
}

function clusterArgs({ confPath, monitors, user }: RbdCluster): string[] {
  return [
    ...(confPath === '' ? [] : [`--conf=${confPath}`]),
    ...(monitors.length === 0 ? [] : [`--mon-host=${monitors.join(',')}`]),
    ...(user === '' ? [] : [`--id=${user}`]),
    // Without it the tool waits for five minutes, or for ever when a key is refused over the second protocol.
    `--client_mount_timeout=${CONNECT_SECONDS}`,
  ];
}

/** A file and not a pipe: the tool reads it more than once. */
async function withKeyFile<Result>(
  directory: string,
  key: Secret | undefined,
  use: (keyArgs: readonly string[]) => Promise<Result>,
): Promise<Result> {
  if (key === undefined) return use([]);
  const made = await mkdir(directory, { recursive: true, mode: 0o700 });
  const path = join(directory, `key-${randomUUID()}`);
  await writeFile(path, key.reveal(), { mode: 0o600, flag: 'wx' });
  try {
    return await use([`--keyfile=${path}`]);
  } finally {
    await rm(path);
    // Made for what is undone after its job has ended. Another key may be in it.
    if (made !== undefined) await rmdir(directory).catch(() => undefined);
  }
}

function requireSuccess(image: RbdImage, result: RunResult): void {
  if (result.exitCode === 0) return;
  if (result.exitCode === ENOENT) throw noSuch(image, result);
  throw new HoldfastError('QEMU_FAILED', `RBD image ${rbdPath(image)}: ${saidBy(result.stderr)}`);
}

function noSuch(image: RbdImage, result: RunResult): HoldfastError {
  return new HoldfastError('VOLUME_NOT_FOUND', `RBD image ${rbdPath(image)}: ${saidBy(result.stderr)}`);
}

/** The error of a restore that would overwrite an image. */
export function imageExists(image: RbdImage): HoldfastError {
  return new HoldfastError(
    'TARGET_EXISTS',
    `There is an RBD image ${rbdPath(image)} already; a restore overwrites nothing.`,
  );
}

/** The tool's exit code is the same for many failures to connect. */
function isRefusal(stderr: string): boolean {
  return /operation not permitted|permission denied|no keyring found|handle_auth_bad_method|unable to open config file/i.test(
    stderr,
  );
}

/** The tool's own sentences among the log lines of librados, which begin with the time. */
function saidBy(stderr: string): string {
  const lines = stderr.split('\n').filter((line) => line.trim() !== '');
  const own = lines.filter((line) => line.startsWith('rbd: ') || line.startsWith('global_init: '));
  return (own.length > 0 ? own : lines.slice(-1)).map((line) => line.replace(/^rbd: /, '')).join('; ');
}

function describe({ monitors, confPath }: RbdCluster): string {
  return `The Ceph cluster at ${monitors.join(', ') || confPath || "the monitors of the host's ceph.conf"}`;
}
