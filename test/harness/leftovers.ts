import { readdir, readFile } from 'node:fs/promises';

/** A process that names something in its arguments. */
export interface Leftover {
  readonly pid: number;
  readonly argv: readonly string[];
}

/** The processes with `text` in one of their arguments, such as a job's id or a directory. */
export async function processesNaming(text: string): Promise<Leftover[]> {
  const pids = (await readdir('/proc')).filter((name) => /^\d+$/.test(name)).map(Number);
  const found = await Promise.all(
    pids.map(async (pid) => {
      const argv = (await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '')).split('\0').slice(0, -1);
      return { pid, argv };
    }),
  );
  return found.filter(({ pid, argv }) => pid !== process.pid && argv.some((each) => each.includes(text)));
}

/** Kills them all, in particular runners, which outlive their agents on purpose. */
export async function killNaming(text: string): Promise<void> {
  for (const { pid } of await processesNaming(text)) {
    try {
      process.kill(pid, 'SIGKILL');
    } catch {
      // It has ended by itself meanwhile.
    }
  }
}
