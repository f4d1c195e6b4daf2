import { readFile, rm, writeFile } from 'node:fs/promises';
import { createConnection } from 'node:net';
import { join } from 'node:path';
import { splitOption } from '@holdfast/common/mountOptions.ts';
import { Secret } from '@holdfast/common/secret.ts';
import type { RepositoryCredentials } from '@holdfast/proto/holdfast/v1/repository.ts';
import { run } from '../process/run.ts';
import { withSecretPipe } from '../process/secretPipe.ts';
import { SAFE_OPTIONS, withDefaults } from './options.ts';
import { MOUNT_DEADLINE_MS, type MountPlan, type MountSource } from './plan.ts';
import type { MountPlace } from './place.ts';
import { RepositoryProblem } from '../repository/problem.ts';

/** Below the deadline, so that the client's own words arrive. */
const MONITOR_SECONDS = 20;
const HELLO_DEADLINE_MS = 3_000;
/** Of messenger v2 and v1. */
const DEFAULT_PORTS = [3300, 6789];
const KEYRING_FILE = 'keyring';
/** What the options of mount.ceph(8) are to ceph-fuse. Those that tune the kernel's client alone have no counterpart. */
const FUSE_OPTIONS: Readonly<Record<string, string>> = {
  fs: '--client_fs',
  mds_namespace: '--client_fs',
  mount_timeout: '--client_mount_timeout',
  ms_mode: '--ms_client_mode',
};
/** They hold for FUSE as they are. */
const GENERAL_OPTIONS = [...SAFE_OPTIONS, 'nodiratime', 'relatime'];
/** The values of ms_mode as messenger v2 has them; `legacy` is another protocol. */
const FUSE_MODES: Readonly<Record<string, string>> = {
  crc: 'crc',
  secure: 'secure',
  'prefer-crc': 'crc secure',
  'prefer-secure': 'secure crc',
};

/** A directory of a CephFS, by the kernel's client where the kernel has one, and by ceph-fuse where not. */
export function cephPlan(source: MountSource): MountPlan {
  return {
    fileSystems: ['ceph', 'fuse.ceph-fuse'],
    mount: async (place) => {
      const credentials = source.credentials;
      if (credentials === undefined) {
        throw new RepositoryProblem('MOUNT_FAILED', 'A Ceph repository is mounted with credentials only.');
      }
      return (await kernelHasCeph())
        ? mountByKernel(source, credentials, place)
        : mountByFuse(source, credentials, place);
    },
  };
}

async function kernelHasCeph(): Promise<boolean> {
  const known = async (): Promise<boolean> => /\tceph$/m.test(await readFile('/proc/filesystems', 'utf8'));
  if (await known()) return true;
  // A host without modules may lack the program, too.
  await run('modprobe', ['--quiet', 'ceph'], { deadlineMs: MOUNT_DEADLINE_MS }).catch(() => undefined);
  return known();
}

function mountByKernel(
  { address, mountOptions }: MountSource,
  { username, password }: RepositoryCredentials,
  { point, directory }: MountPlace,
): ReturnType<MountPlan['mount']> {
  const options = withDefaults([...SAFE_OPTIONS, `mount_timeout=${MONITOR_SECONDS}`], mountOptions);
  return withSecretPipe(directory, new Secret(password), (pipe) => {
    const all = [...options, `name=${username}`, `secretfile=${pipe}`].join(',');
    return run('mount', ['-t', 'ceph', '-o', all, '--', address, point], { deadlineMs: MOUNT_DEADLINE_MS });
  });
}

/** ceph-fuse opens its keyring several times, so it gets a file (0600, on tmpfs) for the moment of mounting. */
async function mountByFuse(
  { address, mountOptions }: MountSource,
  { username, password }: RepositoryCredentials,
  { point, directory }: MountPlace,
): ReturnType<MountPlan['mount']> {
  const [, monitors = '', path = ''] = /^([^/]*):(\/.*)$/s.exec(address) ?? [];
  const keyring = join(directory, KEYRING_FILE);
  await rm(keyring, { force: true });
  await writeFile(keyring, `[client.${username}]\n\tkey = ${password}\n`, { mode: 0o600, flag: 'wx' });
  try {
    const result = await run(
      'ceph-fuse',
      [
        // What the host's own ceph.conf says may be of another cluster.
        ...['-c', '/dev/null', '-n', `client.${username}`, '-k', keyring, '-m', monitors, '-r', path],
        // Nothing of it is written anywhere.
        ...['--log-file=', '--admin-socket=', '--no-mon-config'],
        ...fuseArguments(withDefaults([`mount_timeout=${MONITOR_SECONDS}`], mountOptions)),
        ...['-o', SAFE_OPTIONS.filter((option) => option !== 'rw').join(',')],
        point,
      ],
      { deadlineMs: MOUNT_DEADLINE_MS },
    );
    // ceph-fuse says "timed out" of a monitor that is not there, and of one that refuses the key.
    if (result.exitCode === 0 || !result.stderr.includes('(110)') || !(await monitorAnswers(monitors)))
      return result;
    const stderr = `The monitors answer and do not let client.${username} in: its name or key is wrong, or they have no quorum.`;
    return { ...result, stderr };
  } finally {
    await rm(keyring, { force: true });
  }
}

/** Whether one of the monitors says hello, which it does to everybody ("ceph v027", "ceph v2"). */
async function monitorAnswers(monitors: string): Promise<boolean> {
  const answers = monitors.split(',').flatMap((monitor) => {
    const [, host = '', port] = /^\[?(.*?)\]?(?::(\d+))?$/.exec(monitor) ?? [];
    return (port === undefined ? DEFAULT_PORTS : [Number(port)]).map((each) => saysHello(host, each));
  });
  return (await Promise.all(answers)).includes(true);
}

function saysHello(host: string, port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = createConnection({ host, port, timeout: HELLO_DEADLINE_MS });
    const end = (found: boolean): void => {
      socket.destroy();
      resolve(found);
    };
    socket.once('data', (data) => {
      end(data.toString('latin1').startsWith('ceph v'));
    });
    socket.once('timeout', () => {
      end(false);
    });
    socket.once('error', () => {
      end(false);
    });
  });
}

function fuseArguments(options: readonly string[]): readonly string[] {
  return options
    .filter((option) => !GENERAL_OPTIONS.includes(option))
    .map((option) => {
      const [name, value = ''] = splitOption(option);
      const argument = Object.hasOwn(FUSE_OPTIONS, name) ? FUSE_OPTIONS[name] : undefined;
      const given = name === 'ms_mode' ? FUSE_MODES[value] : value;
      if (argument !== undefined && given !== undefined) return `${argument}=${given}`;
      throw new RepositoryProblem(
        'MOUNT_FAILED',
        `The mount option ${option} is for the kernel's Ceph client, and the kernel of this host has none.`,
      );
    });
}
