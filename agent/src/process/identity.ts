import { readdir, readFile } from 'node:fs/promises';

/**
 * The ids of the processes that have exactly this argument. A path that belongs to one job finds the job's processes
 * without a pid file, which could be missing or stale.
 */
export async function processesWithArgument(argument: string): Promise<readonly number[]> {
  const pids = (await readdir('/proc')).filter((name) => /^\d+$/.test(name)).map(Number);
  const found = await Promise.all(
    pids.map(async (pid) => {
      // It may have ended since it was listed.
      const commandLine = await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '');
      return commandLine.split('\0').includes(argument) ? pid : undefined;
    }),
  );
  return found.filter((pid) => pid !== undefined);
}

/** Sends a signal to a process; one that has ended meanwhile needs none. */
export function signalProcess(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
  }
}
