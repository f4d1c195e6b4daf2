import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { execa } from 'execa';
import { until } from './deadline.ts';
import { recordSupervisor } from './directory.ts';
import { childrenOf } from './process.ts';

/** The namespaces of one host, with process 1 and libvirtd in them. */
export interface Supervisor {
  /** A process outside the pid namespace whose children are inside, and which is inside the mount namespace. */
  readonly pid: number;
  /** Ends everything inside and removes the host's directory. */
  end(): Promise<void>;
  /** Kills everything inside at once and leaves the directory. */
  crash(): Promise<void>;
}

/** What process 1 is. */
export interface Supervised {
  /** A script of this directory; it says `ready` when others can come in. */
  readonly script: string;
  /** The sentence that says what is waited for. */
  readonly what: string;
}

const LIBVIRT: Supervised = { script: 'supervisor.sh', what: 'libvirtd answers' };

/** Starts a script in namespaces of its own. It ends with this process, however that ends. */
export async function startSupervisor(
  directory: string,
  { script, what }: Supervised = LIBVIRT,
): Promise<Supervisor> {
  const subprocess = execa('unshare', unshareArgv(directory, script), {
    stdin: 'pipe',
    stdout: 'pipe',
    stderr: 'pipe',
    buffer: false,
    reject: false,
    // Ctrl-C reaches the owner, whose end is the supervisor's end; it must not meet it half way.
    detached: true,
  });
  const pid = subprocess.pid ?? 0;
  const end = async (): Promise<void> => {
    subprocess.stdin.end();
    const killer = setTimeout(() => subprocess.kill('SIGKILL'), 10_000);
    await subprocess;
    clearTimeout(killer);
  };

  let said = '';
  let complaint = '';
  let ended = false;
  subprocess.stdout.on('data', (chunk: Buffer) => (said += chunk.toString()));
  subprocess.stdout.on('end', () => (ended = true));
  subprocess.stderr.on('data', (chunk: Buffer) => (complaint += chunk.toString()));
  try {
    await recordSupervisor(directory, pid);
    const ready = await until(`${what} in ${directory}`, 30_000, () =>
      Promise.resolve(said.startsWith('ready') ? true : said !== '' || ended ? false : undefined),
    );
    if (!ready)
      throw new Error(`${what}: it did not start in the lab. ${complaint}\n${await logsOf(directory)}`);
  } catch (error) {
    await end();
    throw error;
  }
  return {
    pid,
    end,
    crash: async () => {
      for (const first of await childrenOf(pid)) process.kill(first, 'SIGKILL');
      await subprocess;
    },
  };
}

function unshareArgv(directory: string, script: string): string[] {
  return [
    // Mounts made outside may come in, none goes out.
    ...['--mount', '--propagation', 'slave'],
    // Killing process 1 of a pid namespace kills all of it, and no process can leave.
    ...['--pid', '--fork', '--kill-child', '--mount-proc'],
    ...['--', 'sh', path.join(import.meta.dirname, script), directory],
  ];
}

async function logsOf(directory: string): Promise<string> {
  const names = ['start.log', 'libvirtd.log'].map((name) => path.join(directory, 'log', name));
  const logs = await Promise.all(names.map((name) => readFile(name, 'utf8').catch(() => '')));
  return logs.join('').slice(-3000);
}
