/**
 * Loaded into an agent's runners and their helpers (`NODE_OPTIONS=--import`): kills at exactly one step of a job, so that
 * every moment between two steps is met, and none by chance. What it waits for stands in the file HOLDFAST_TEST_KILL.
 *
 * The steps of a runner are what it writes to its journal; those of a helper are what it is asked to do on the repository.
 */
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { signalProcess } from '@holdfast/agent/process/identity.ts';
import type { KillPlan } from './plan.ts';

const [, program = ''] = process.argv;
const { HOLDFAST_TEST_KILL: file = '' } = process.env;
const plan = (): KillPlan => JSON.parse(readFileSync(file, 'utf8')) as KillPlan;

if (program.endsWith('/jobs/runner.ts') && !process.argv.includes('--recover')) await killAtJournalEntry();
if (program.endsWith('/repository/helper.ts') && isOfJob(process.ppid)) killAtRepositoryStep();

async function killAtJournalEntry(): Promise<void> {
  const { victims, at, step } = plan();
  if (at !== 'journal') return;
  const any = await open('/dev/null');
  const handle = Object.getPrototypeOf(any) as { datasync: () => Promise<void> };
  await any.close();
  let written = 0;
  // Only the journal is made durable by datasync.
  const datasync = Reflect.get(handle, 'datasync');
  handle.datasync = async function durable(this: unknown) {
    await datasync.call(this);
    if (++written === step) kill(victims, `entry ${written}`);
  };
}

function killAtRepositoryStep(): void {
  const { victims, at, step } = plan();
  if (at === 'journal') return;
  let asked = 0;
  let answered = 0;
  /** Those that are steps, by their numbers; whether it answers is asked by the clock. */
  const steps = new Map<number, string>();
  process.prependListener('message' as never, (request: { id?: number; operation?: string }) => {
    // The first message says what to open.
    if (request.id === undefined || request.operation === undefined || request.operation === 'answers')
      return;
    steps.set(request.id, request.operation);
    if (++asked === step && at === 'before') kill(victims, `before ${request.operation}`);
  });
  const send = process.send?.bind(process);
  process.send = (answer: { id?: number }): boolean => {
    const operation = steps.get(answer.id ?? 0);
    if (operation !== undefined && ++answered === step && at === 'after') kill(victims, `after ${operation}`);
    return send?.(answer) ?? false;
  };
}

/** The parent first: it must not get to hear of anything. This process last. */
function kill(victims: string, step: string): void {
  writeFileSync(`${file}.hit`, step);
  if (victims !== '') {
    const pids = readdirSync('/proc').filter((name) => /^\d+$/.test(name) && Number(name) !== process.pid);
    for (const pid of [String(process.ppid), ...pids]) {
      if (!commandLine(Number(pid)).includes(victims)) continue;
      signalProcess(Number(pid), 'SIGKILL');
    }
  }
  process.kill(process.pid, 'SIGKILL');
  // The signal may take a moment; nothing more must happen.
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0);
}

function isOfJob(pid: number): boolean {
  const line = commandLine(pid);
  return line.includes('/jobs/runner.ts') && !line.includes('--recover');
}

function commandLine(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8');
  } catch {
    return '';
  }
}
