import { readdir, readFile } from 'node:fs/promises';

/** What a thread of a process does: its name, its state (proc(5): R, S, D, ...), and where in the kernel it waits. */
export interface ThreadState {
  readonly id: number;
  readonly name: string;
  readonly state: string;
  /** The innermost functions of the kernel, the latest first; empty for one that runs, or for who may not see it. */
  readonly kernelStack: readonly string[];
}

const FUNCTIONS_SHOWN = 6;

/** The threads of a process, in the order of their ids; none when it has ended. */
export async function threadsOf(pid: number): Promise<readonly ThreadState[]> {
  const ids = await readdir(`/proc/${pid}/task`).catch(() => []);
  const read = async (id: string, file: string): Promise<string> =>
    await readFile(`/proc/${pid}/task/${id}/${file}`, 'utf8').catch(() => '');
  return await Promise.all(
    ids.map(async (id) => {
      const [name, status, stack] = await Promise.all([
        read(id, 'comm'),
        read(id, 'status'),
        read(id, 'stack'),
      ]);
      return {
        id: Number(id),
        name: name.trim(),
        state: /^State:\s*(\S)/m.exec(status)?.[1] ?? '',
        kernelStack: [...stack.matchAll(/^\[<0>\] ([\w.]+)/gm)]
          .map(([, called]) => called ?? '')
          .slice(0, FUNCTIONS_SHOWN),
      };
    }),
  );
}
