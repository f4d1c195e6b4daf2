import { readFile, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';

/** At which step of a job who is killed. */
export interface KillPlan {
  /** After a journal entry is durable, or before or after a repository operation takes effect. */
  readonly at: 'journal' | 'before' | 'after';
  /** From 1; larger than the number of steps: nobody is killed. */
  readonly step: number;
  /** All processes with this in their command line; empty: only the one that takes the step. */
  readonly victims: string;
}

/** The environment of an agent whose jobs are killed as the plan in `file` says. */
export function killable(file: string): Record<string, string> {
  return {
    NODE_OPTIONS: `--import=${path.join(import.meta.dirname, 'killer.ts')}`,
    HOLDFAST_TEST_KILL: file,
  };
}

export async function writePlan(file: string, plan: KillPlan): Promise<void> {
  await rm(`${file}.hit`, { force: true });
  await writeFile(file, JSON.stringify(plan));
}

/** The step at which was killed; undefined when the job ended before. */
export function killedAt(file: string): Promise<string | undefined> {
  return readFile(`${file}.hit`, 'utf8').catch(() => undefined);
}
