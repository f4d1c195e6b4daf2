import { randomUUID } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdir, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { execa } from 'execa';
import { until } from './deadline.ts';
import { createLabDirectory, removeLabDirectory } from './directory.ts';
import { freePort } from './freePort.ts';
import { enterArgv, spawnInside, type InsideProcess } from './inside.ts';
import { startSupervisor, type Supervisor } from './supervisor.ts';
import { sweepLabs } from './sweep.ts';

/** A Ceph cluster of one monitor, manager, OSD (in memory, 4 GiB) and MDS, on ports of its own on 127.0.0.1, with cephx. */
export interface Ceph extends AsyncDisposable {
  /** Holds the configuration, keyrings and logs; gone with the cluster. */
  readonly directory: string;
  /** Names the monitor, and `keyringPath` as the keyring of any user that has none of its own. */
  readonly confPath: string;
  /** The keyring of client.admin. */
  readonly keyringPath: string;
  /** What `mon_host` takes, such as `127.0.0.1:33001` (the v2 protocol). */
  readonly monitors: string;
  /** The same as host and port. */
  readonly monitor: { readonly host: string; readonly port: number };
  /** The key of client.admin in base64. */
  readonly key: string;
  /** A pool for RBD images. */
  readonly pool: string;
  /** The CephFS file system's name. */
  readonly fileSystem: string;
  /** The address of its root as mount.ceph takes it, `127.0.0.1:33001:/`. */
  readonly fsAddress: string;
  /** Runs `ceph` as client.admin and returns what it printed. */
  ceph(args: readonly string[]): Promise<string>;
  /** Runs `rbd` as client.admin. */
  rbd(args: readonly string[]): Promise<string>;
  /** Makes a pool for RBD images. */
  makePool(name: string): Promise<void>;
  /** Makes a user, such as `client.vm` with `['mon', 'profile rbd', 'osd', 'profile rbd']`; its keyring is a 0600 file. */
  makeUser(
    entity: string,
    capabilities: readonly string[],
  ): Promise<{ readonly key: string; readonly keyringPath: string }>;
  /** Stops the daemons where they stand, as a network or a cluster that hangs; `resume` lets them go on. */
  pause(): void;
  resume(): void;
}

const DEADLINE_MS = 60_000;
const POOL = 'vms';
const FILE_SYSTEM = 'files';

/** Starts a cluster. It ends with this process, however that ends. Several can run at the same time. Needs root. */
export async function startCeph(): Promise<Ceph> {
  await sweepLabs();
  const directory = await createLabDirectory();
  let supervisor: Supervisor | undefined;
  try {
    supervisor = await startSupervisor(directory, { script: 'ceph.sh', what: 'The Ceph lab answers' });
    return await bootCeph(directory, supervisor);
  } catch (error) {
    await supervisor?.end();
    await removeLabDirectory(directory);
    throw error;
  }
}

async function bootCeph(directory: string, supervisor: Supervisor): Promise<Ceph> {
  const port = await freePort();
  const confPath = path.join(directory, 'ceph.conf');
  const keyringPath = path.join(directory, 'keyring');

  const inside = async (argv: readonly string[]): Promise<string> => {
    const [program = '', ...args] = enterArgv(supervisor.pid, argv);
    const result = await execa(program, args, {
      timeout: DEADLINE_MS,
      killSignal: 'SIGKILL',
      reject: false,
    });
    if (result.failed) throw new Error(`${argv.join(' ')}: ${result.stderr || (result.shortMessage ?? '')}`);
    return result.stdout;
  };
  const ceph = (args: readonly string[]): Promise<string> =>
    inside(['ceph', '--conf', confPath, '--connect-timeout', '30', ...args]);
  const daemons: InsideProcess[] = [];
  const startDaemon = async (program: string, id: string): Promise<void> => {
    daemons.push(
      await spawnInside(
        supervisor.pid,
        [program, '-f', '--conf', confPath, '--id', id],
        path.join(directory, 'log', `${program}.log`),
        {},
      ),
    );
  };

  const clusterKeyring = path.join(directory, 'cluster.keyring');
  await makeKey(inside, keyringPath, 'client.admin', {
    mon: 'allow *',
    osd: 'allow *',
    mgr: 'allow *',
    mds: 'allow *',
  });
  await makeKey(inside, clusterKeyring, 'mon.', { mon: 'allow *' });
  await makeKey(inside, clusterKeyring, 'mgr.a', {
    mon: 'allow profile mgr',
    osd: 'allow *',
    mds: 'allow *',
  });
  await makeKey(inside, clusterKeyring, 'osd.0', {
    mon: 'allow profile osd',
    osd: 'allow *',
    mgr: 'allow profile osd',
  });
  await makeKey(inside, clusterKeyring, 'mds.a', {
    mon: 'allow profile mds',
    osd: 'allow *',
    mds: 'allow *',
    mgr: 'allow profile mds',
  });
  await inside(['ceph-authtool', clusterKeyring, '--import-keyring', keyringPath]);
  const fsid = randomUUID();
  await writeFile(confPath, configuration({ directory, keyringPath, clusterKeyring, port, fsid }));
  const monmap = path.join(directory, 'monmap');
  await inside(['monmaptool', '--create', '--fsid', fsid, '--addv', 'a', `[v2:127.0.0.1:${port}]`, monmap]);
  const mkfs = ['--mkfs', '--id', 'a', '--keyring', clusterKeyring, '--monmap', monmap];
  await inside(['ceph-mon', '--conf', confPath, ...mkfs]);
  await startDaemon('ceph-mon', 'a');
  // The command waits by itself until the monitor has formed its quorum.
  const osd = randomUUID();
  await ceph(['osd', 'new', osd]);
  await mkdir(path.join(directory, 'lib/osd'));
  await inside(['ceph-osd', '--conf', confPath, '--mkfs', '--id', '0', '--osd-uuid', osd]);
  await Promise.all([
    startDaemon('ceph-mgr', 'a'),
    startDaemon('ceph-osd', '0'),
    startDaemon('ceph-mds', 'a'),
  ]);

  const makePool = async (name: string): Promise<void> => {
    await ceph(['osd', 'pool', 'create', name, '8']);
    await ceph(['osd', 'pool', 'application', 'enable', name, 'rbd']);
  };
  const filePools = [`${FILE_SYSTEM}-metadata`, `${FILE_SYSTEM}-data`];
  await Promise.all([makePool(POOL), ...filePools.map((name) => ceph(['osd', 'pool', 'create', name, '8']))]);
  await ceph(['fs', 'new', FILE_SYSTEM, ...filePools]);
  await until('The Ceph cluster is healthy, with its file system', DEADLINE_MS, async () => {
    const status = JSON.parse(await ceph(['status', '--format', 'json'])) as Status;
    const active = status.pgmap.pgs_by_state.find((state) => state.state_name === 'active+clean');
    const files = status.fsmap.by_rank.some((rank) => rank.status === 'up:active');
    return files && active?.count === status.pgmap.num_pgs ? true : undefined;
  });

  const key = (await ceph(['auth', 'get-key', 'client.admin'])).trim();
  const monitors = `127.0.0.1:${port}`;
  const signal = (name: NodeJS.Signals) => () => {
    for (const daemon of daemons) daemon.kill(name);
  };
  return {
    directory,
    confPath,
    keyringPath,
    monitors,
    monitor: { host: '127.0.0.1', port },
    key,
    pool: POOL,
    fileSystem: FILE_SYSTEM,
    fsAddress: `${monitors}:/`,
    ceph,
    rbd: (args) => inside(['rbd', '--conf', confPath, ...args]),
    makePool,
    makeUser: async (entity, capabilities) => {
      const file = keyringOf(directory, entity);
      await writeFile(file, '', { mode: 0o600 });
      await ceph(['auth', 'get-or-create', entity, ...capabilities, '-o', file]);
      return { key: (await ceph(['auth', 'get-key', entity])).trim(), keyringPath: file };
    },
    pause: signal('SIGSTOP'),
    resume: signal('SIGCONT'),
    [Symbol.asyncDispose]: async () => {
      await supervisor.end();
      await removeLabDirectory(directory);
    },
  };
}

/** The parts of `ceph status` that say whether it can be used. */
interface Status {
  readonly pgmap: {
    readonly num_pgs: number;
    readonly pgs_by_state: readonly { readonly state_name: string; readonly count: number }[];
  };
  readonly fsmap: { readonly by_rank: readonly { readonly status: string }[] };
}

/** Adds a new key with its capabilities to a keyring, which is made when it is not there. */
async function makeKey(
  inside: (argv: readonly string[]) => Promise<string>,
  keyring: string,
  entity: string,
  capabilities: Readonly<Record<string, string>>,
): Promise<void> {
  const caps = Object.entries(capabilities).flatMap(([of, what]) => ['--cap', of, what]);
  const create = existsSync(keyring) ? [] : ['--create-keyring'];
  await inside(['ceph-authtool', keyring, ...create, '--gen-key', '--name', entity, ...caps]);
}

function keyringOf(directory: string, entity: string): string {
  return path.join(directory, `${entity}.keyring`);
}

function configuration(of: {
  readonly directory: string;
  readonly keyringPath: string;
  readonly clusterKeyring: string;
  readonly port: number;
  readonly fsid: string;
}): string {
  const { directory, keyringPath, clusterKeyring, port, fsid } = of;
  return `[global]
fsid = ${fsid}
mon host = v2:127.0.0.1:${port}
public addr = 127.0.0.1
# One of each, on one machine.
osd pool default size = 1
osd pool default min size = 1
osd crush chooseleaf type = 0
mon allow pool size one = true
osd pool default pg autoscale mode = off
auth cluster required = cephx
auth service required = cephx
auth client required = cephx
auth allow insecure global id reclaim = false
# Keys that are taken away have to be noticed within a test.
auth service ticket ttl = 10
run dir = ${directory}/run
log file = ${directory}/log/$name.log
admin socket = ${directory}/run/$name.asok
crash dir = ${directory}/log
[mon]
mon data = ${directory}/lib/mon
mon allow pool delete = true
[mgr]
mgr data = ${directory}/lib/mgr
keyring = ${clusterKeyring}
[osd]
osd data = ${directory}/lib/osd
keyring = ${clusterKeyring}
osd objectstore = memstore
memstore device bytes = 4294967296
[mds]
mds data = ${directory}/lib/mds
keyring = ${clusterKeyring}
[client]
keyring = ${directory}/$name.keyring,${keyringPath}
log file =
admin socket =
`;
}
