import { execa } from 'execa';
import { until } from './deadline.ts';
import { childrenOf } from './process.ts';

/** A program that runs inside a host's namespaces, such as an agent under test. */
export interface InsideProcess {
  /** Its pid as seen from outside the lab. */
  readonly pid: number;
  /** Where its standard output and error go. */
  readonly log: string;
  /** Its end: the exit code, or the signal that ended it. */
  readonly ended: Promise<number | string>;
  /** Signals the program itself: `nsenter`, its parent, passes nothing on. Silent when it is gone. */
  kill(signal?: NodeJS.Signals): void;
}

/** The argv that runs `argv` inside the namespaces of a supervisor, in the same working directory. */
export function enterArgv(supervisor: number, argv: readonly string[]): string[] {
  return [
    'nsenter',
    `--mount=/proc/${supervisor}/ns/mnt`,
    // The supervisor's parent stays outside, and its children are inside.
    `--pid=/proc/${supervisor}/ns/pid_for_children`,
    `--wdns=${process.cwd()}`,
    '--',
    ...argv,
  ];
}

/** Starts a program inside. It ends with the host at the latest. Throws when it is gone before it can be found. */
export async function spawnInside(
  supervisor: number,
  argv: readonly string[],
  log: string,
  env: Readonly<Record<string, string>>,
): Promise<InsideProcess> {
  const [nsenter = '', ...args] = enterArgv(supervisor, argv);
  const subprocess = execa(nsenter, args, {
    env,
    stdin: 'ignore',
    stdout: { file: log, append: true },
    stderr: { file: log, append: true },
    reject: false,
  });
  let over = false;
  const ended = subprocess.then((result) => {
    over = true;
    return result.signal ?? result.exitCode ?? -1;
  });
  const pid = await until(`${argv.join(' ')} starts in the lab`, 10_000, async () =>
    over ? null : (await childrenOf(subprocess.pid ?? -1))[0],
  );
  if (pid === null) throw new Error(`${argv.join(' ')} ended at once (${await ended}). It wrote to ${log}.`);
  const kill = (signal: NodeJS.Signals = 'SIGTERM'): void => {
    try {
      if (!over) process.kill(pid, signal);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
    }
  };
  return { pid, log, ended, kill };
}
