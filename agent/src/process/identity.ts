import { readdir, readFile } from 'node:fs/promises';

/** A process with its arguments. */
export interface ProcessArguments {
  readonly pid: number;
  readonly argv: readonly string[];
}

/** All processes that have arguments: not the kernel's own, nor those that have ended. */
export async function allProcesses(): Promise<readonly ProcessArguments[]> {
  const pids = (await readdir('/proc')).filter((name) => /^\d+$/.test(name)).map(Number);
  const found = await Promise.all(
    pids.map(async (pid) => {
      // It may have ended since it was listed.
      const commandLine = await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '');
      return { pid, argv: commandLine.split('\0').slice(0, -1) };
    }),
  );
  return found.filter(({ argv }) => argv.length > 0);
}

/**
 * The ids of the processes that have exactly this argument. A path that belongs to one job finds the job's processes
 * without a pid file, which could be missing or stale.
 */
export async function processesWithArgument(...wanted: readonly string[]): Promise<readonly number[]> {
  const processes = await allProcesses();
  return processes
    .filter(({ argv }) => argv.some((argument) => wanted.includes(argument)))
    .map(({ pid }) => pid);
}

/** Sends a signal to a process; one that has ended meanwhile needs none. */
export function signalProcess(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
  }
}
