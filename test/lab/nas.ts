import { copyFile, appendFile, mkdir, open, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { connect } from 'node:net';
import path from 'node:path';
import { execa } from 'execa';
import { labPrograms } from '../setup/programs.ts';
import { until } from './deadline.ts';
import { createLabDirectory, removeLabDirectory } from './directory.ts';
import { freePort } from './freePort.ts';
import { enterArgv } from './inside.ts';
import { childrenOf } from './process.ts';
import { MiB } from './spec.ts';
import { startSupervisor } from './supervisor.ts';
import { sweepLabs } from './sweep.ts';

/**
 * A file server with a file system of its own, on a port of 127.0.0.1. It exports two directories: `backups`, and
 * `readonly`, which nobody can write to. Ends with this process, however that ends.
 */
export interface Nas extends AsyncDisposable {
  readonly port: number;
  /** Has its configuration, its state and, below `log`, what it and its helpers have logged. */
  readonly directory: string;
  /** Runs a program where the server runs. */
  inside(argv: readonly string[], input?: string): Promise<void>;
  /** The file system that it exports, as a path on this machine. */
  readonly files: string;
  /** The server stands still: connections stay, and nothing is answered until `resume`. */
  hang(): Promise<void>;
  resume(): Promise<void>;
  /** Ends the server at once, as a power failure would. */
  kill(): Promise<void>;
  /** Starts it again after `kill`. */
  start(): Promise<void>;
  /** Takes all space of the file system but what is to be left; `free` gives it back. */
  fill(leftBytes: number): Promise<void>;
  free(): Promise<void>;
  /** Puts a new, empty file system in the place of the one that is there, and starts the server again. */
  replaceFiles(): Promise<void>;
}

/** What is different between servers. */
export interface NasProgram {
  readonly name: string;
  /** Makes its configuration below the directory, before anything runs. */
  configure(directory: string, port: number): Promise<void>;
  /** What is run once, inside, before the first start. */
  readonly prepare?: (directory: string) => { readonly argv: readonly string[]; readonly input: string };
  /** What runs, in the foreground. */
  argv(directory: string): readonly string[];
}

/** A user of the server beside this machine's own. */
export const NAS_USER = 'nas';

const DISK_BYTES = 512 * MiB;
const FILLER = 'filler';

/** Starts a server. Several can run at the same time. Needs root. */
export async function startNas(program: NasProgram): Promise<Nas> {
  await sweepLabs();
  const directory = await createLabDirectory();
  await using starting = new AsyncDisposableStack();
  starting.defer(() => removeLabDirectory(directory));
  const port = await freePort();
  const disk = path.join(directory, 'disk');
  await mkdir(path.join(directory, 'export'));
  await symlink(await labPrograms(), path.join(directory, 'programs'));
  await copyFile('/etc/passwd', path.join(directory, 'passwd'));
  await appendFile(
    path.join(directory, 'passwd'),
    `${NAS_USER}:x:61234:65534::/nonexistent:/usr/sbin/nologin\n`,
  );
  await program.configure(directory, port);
  await makeFileSystem(disk);

  const supervisor = await startSupervisor(directory, {
    script: 'nas.sh',
    what: 'A file system to export is there',
  });
  starting.defer(() => supervisor.end());
  const [first] = await childrenOf(supervisor.pid);
  const files = path.join(`/proc/${first}/root`, directory, 'export');

  const inside = async (argv: readonly string[], input = ''): Promise<void> => {
    const [file = '', ...args] = enterArgv(supervisor.pid, argv);
    await execa(file, args, { input, timeout: 30_000 });
  };
  // To all but process 1, which is not a part of the server.
  const signalAll = (signal: string) => inside(['sh', '-c', `kill -${signal} -1`]);
  const start = async (): Promise<void> => {
    const log = path.join(directory, 'log', `${program.name}.log`);
    try {
      // A child of process 1: nsenter would stop when its child does.
      const daemon = 'exec setsid --fork "$@" </dev/null >>"$0" 2>&1';
      await inside(['sh', '-c', daemon, log, ...program.argv(directory)]);
      await until(`${program.name} listens on port ${port}`, 30_000, () => listens(port));
    } catch (error) {
      throw new Error(`${String(error)} Its log ends:\n${(await readFile(log, 'utf8')).slice(-3000)}`, {
        cause: error,
      });
    }
  };
  const kill = async (): Promise<void> => {
    await signalAll('KILL');
    await until(`${program.name} is gone`, 10_000, async () =>
      (await listens(port)) === undefined ? true : undefined,
    );
  };

  const prepared = program.prepare?.(directory);
  if (prepared !== undefined) await inside(prepared.argv, prepared.input);
  await start();
  const running = starting.move();
  return {
    port,
    directory,
    inside,
    files,
    hang: () => signalAll('STOP'),
    resume: () => signalAll('CONT'),
    kill,
    start,
    fill: async (leftBytes) => {
      const { stdout } = await execa('stat', ['--file-system', '--format=%a %S', files]);
      const [blocks = 0, blockBytes = 0] = stdout.split(' ').map(Number);
      await execa('fallocate', ['-l', String(blocks * blockBytes - leftBytes), path.join(files, FILLER)]);
    },
    free: () => rm(path.join(files, FILLER), { force: true }),
    replaceFiles: async () => {
      await kill();
      const target = path.join(directory, 'export');
      await until('The old file system is unmounted', 10_000, () =>
        inside(['umount', target]).then(
          () => true,
          () => undefined,
        ),
      );
      await makeFileSystem(disk);
      await inside(['mount', '-o', 'loop', disk, target]);
      await inside(['mkdir', path.join(target, 'backups'), path.join(target, 'readonly')]);
      await start();
    },
    [Symbol.asyncDispose]: () => running.disposeAsync(),
  };
}

async function makeFileSystem(disk: string): Promise<void> {
  await rm(disk, { force: true });
  await writeFile(disk, '');
  await using handle = await open(disk, 'r+');
  await handle.truncate(DISK_BYTES);
  await execa('mke2fs', ['-q', '-t', 'ext4', '-m', '0', disk], { timeout: 60_000 });
}

function listens(port: number): Promise<true | undefined> {
  return new Promise((resolve) => {
    const socket = connect(port, '127.0.0.1', () => {
      socket.destroy();
      resolve(true);
    });
    socket.on('error', () => {
      resolve(undefined);
    });
  });
}
