import { readFile, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { execa } from 'execa';
import { until } from './deadline.ts';
import { createLabDirectory, removeLabDirectory } from './directory.ts';
import { enterArgv, spawnInside, type InsideProcess } from './inside.ts';
import { startSupervisor } from './supervisor.ts';

/** Namespaces with a libvirtd in them: what a test sees as one KVM host. */
export interface Host extends AsyncDisposable {
  /** The same inside and outside. `shared` in it is open to every user, for sockets and scratch. */
  readonly directory: string;
  readonly libvirtUri: string;
  /**
   * The argv that runs `argv` inside, in the same working directory. An agent belongs inside: it then has the host's
   * /run, its mounts reach QEMU, and it dies with the host.
   */
  enter(argv: readonly string[]): string[];
  /** Starts a program inside and goes on; its output is in `<directory>/log/<name>.log`. */
  spawn(
    name: string,
    argv: readonly string[],
    env?: Readonly<Record<string, string>>,
  ): Promise<InsideProcess>;
  /** Power failure: everything inside is killed at once. The directory stays. */
  crash(): Promise<void>;
  /** Power on again after `crash`: libvirtd with the definitions it had, all guests off. */
  boot(): Promise<void>;
  /** Ends libvirtd alone, by SIGKILL unless told otherwise; guests go on. */
  killLibvirtd(signal?: 'SIGKILL' | 'SIGTERM'): Promise<void>;
  startLibvirtd(): Promise<void>;
}

export interface HostOptions {
  /** The user that QEMU runs as. `libvirt-qemu`, as on Debian, finds wrong permissions; `root` does not mind any. */
  readonly qemuUser: string;
  /**
   * Whether what is mounted in `shared` from outside reaches QEMU, as systemd has it on every host, or does not. Left out:
   * as it is on this machine.
   */
  readonly mounts?: 'shared' | 'private' | undefined;
}

/** Starts a host. It ends with this process, however that ends. Needs root. */
export async function startHost(options: HostOptions): Promise<Host> {
  if (process.getuid?.() !== 0)
    throw new Error('The lab mounts and unshares, which needs root: run it as root.');
  const directory = await createLabDirectory();
  try {
    await writeConfiguration(directory, options);
    if (options.mounts !== undefined) await setPropagation(path.join(directory, 'shared'), options.mounts);
    return await bootHost(directory);
  } catch (error) {
    await removeLabDirectory(directory);
    throw error;
  }
}

/** Before the namespaces are made: what they inherit as a slave follows this one. */
async function setPropagation(directory: string, propagation: 'shared' | 'private'): Promise<void> {
  await execa('mount', ['--bind', directory, directory]);
  await execa('mount', [`--make-${propagation}`, directory]);
  // systemd mounts this too.
  const control = '/sys/fs/fuse/connections';
  const { exitCode } = await execa('mountpoint', ['--quiet', control], { reject: false });
  if (exitCode !== 0) await execa('mount', ['-t', 'fusectl', 'fusectl', control]);
}

async function bootHost(directory: string): Promise<Host> {
  let supervisor = await startSupervisor(directory);
  const enter: Host['enter'] = (argv) => enterArgv(supervisor.pid, argv);
  const inside = async (...argv: string[]) => {
    const [program = '', ...args] = enter(argv);
    return execa(program, args, { timeout: 30_000, reject: false });
  };
  return {
    directory,
    libvirtUri: `qemu+unix:///system?socket=${directory}/run/libvirt-sock`,
    enter,
    spawn: (name, argv, env = {}) =>
      spawnInside(supervisor.pid, argv, path.join(directory, 'log', `${name}.log`), env),
    crash: () => supervisor.crash(),
    boot: async () => {
      supervisor = await startSupervisor(directory);
    },
    killLibvirtd: async (signal = 'SIGKILL') => {
      const pid = (await readFile(path.join(directory, 'libvirtd.pid'), 'utf8')).trim();
      await inside('kill', '-s', signal.slice('SIG'.length), pid);
      await until(`libvirtd ends by ${signal}`, 20_000, async () =>
        (await inside('kill', '-0', pid)).failed ? true : undefined,
      );
    },
    startLibvirtd: async () => {
      const started = await inside(
        'libvirtd',
        '-d',
        '-f',
        `${directory}/etc/libvirtd.conf`,
        '-p',
        `${directory}/libvirtd.pid`,
      );
      if (started.failed) throw new Error(`libvirtd did not start again: ${started.stderr}`);
    },
    [Symbol.asyncDispose]: async () => {
      await supervisor.end();
      await removeLabDirectory(directory);
    },
  };
}

async function writeConfiguration(directory: string, options: HostOptions): Promise<void> {
  const libvirtd = [
    `unix_sock_dir = "${directory}/run"`,
    'unix_sock_rw_perms = "0700"',
    'auth_unix_rw = "none"',
    'auth_unix_ro = "none"',
    `log_outputs = "2:file:${directory}/log/libvirtd.log"`,
  ];
  const qemu = [
    `user = "${options.qemuUser}"`,
    `group = "${options.qemuUser}"`,
    'security_driver = "none"',
    'remember_owner = 0',
    // /dev as it is, no cgroups (the machine's own are none of our business), no virtlogd.
    'namespaces = []',
    'cgroup_controllers = []',
    'stdio_handler = "file"',
  ];
  await writeFile(path.join(directory, 'etc/libvirtd.conf'), `${libvirtd.join('\n')}\n`);
  await writeFile(path.join(directory, 'etc/qemu.conf'), `${qemu.join('\n')}\n`);
}
