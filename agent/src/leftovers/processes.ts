import { readFile } from 'node:fs/promises';
import { join, relative } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { isUuid } from '@holdfast/common/uuid.ts';
import { LeftoverKind } from '@holdfast/proto/holdfast/v1/leftover.ts';
import { isTerminal, journaledEvents, readJournal } from '../jobs/journal.ts';
import { jobFiles } from '../jobs/spec.ts';
import { allProcesses, signalProcess, type ProcessArguments } from '../process/identity.ts';
import { stopStorageDaemon, storageDaemonDirectory } from '../qemu/storageDaemon.ts';
import { ofDeadJob, type Found, type LookParts } from './found.ts';

const KIND = LeftoverKind.LEFTOVER_KIND_PROCESS;
/** A runner ends at once after its last event; one that is still there hangs. */
const ENDING_MS = 60_000;
const KILL_DEADLINE_MS = 5_000;

/** Processes of jobs that have ended or are dead, and the jobs that any process works for. */
export async function processesLeft(
  parts: LookParts,
): Promise<{ readonly found: Found[]; readonly busyJobIds: readonly string[] }> {
  const found: Found[] = [];
  const busy = new Set<string>();
  const all = await allProcesses();
  for (const each of all) {
    const runner = runnerJob(each, parts.roots.jobs);
    if (runner !== undefined) {
      busy.add(runner);
      if (await isStuck(parts, each, runner)) found.push(stuckRunner(each, runner));
    }
    const directory = storageDaemonDirectory(each.argv);
    const daemonJob = directory === undefined ? undefined : firstName(parts.roots.runtime, directory);
    if (directory !== undefined && daemonJob !== undefined) {
      busy.add(daemonJob);
      if (await parts.jobs.isAtWork(daemonJob)) continue;
      const name = `qemu-storage-daemon, process ${each.pid}`;
      found.push(ofDeadJob(KIND, name, daemonJob, () => stopStorageDaemon(directory)));
    }
    const helper = await orphanedHelper(each, parts.mountsDirectory, all);
    if (helper !== undefined) found.push(helper);
  }
  return { found, busyJobIds: [...busy] };
}

/** The job of a runner; undefined for any other process. */
function runnerJob({ argv }: ProcessArguments, jobsDirectory: string): string | undefined {
  const at = argv.findIndex(isRunnerProgram);
  return at < 0 ? undefined : firstName(jobsDirectory, argv[at + 1] ?? '');
}

function isRunnerProgram(argument: string): boolean {
  return argument.endsWith('/jobs/runner.ts');
}

/** The job whose directory, below `root`, holds the path or is the path. */
function firstName(root: string, path: string): string | undefined {
  const [name = ''] = relative(root, path).split('/');
  return isUuid(name) ? name : undefined;
}

async function isStuck({ roots }: LookParts, { argv }: ProcessArguments, jobId: string): Promise<boolean> {
  // That one works after the last event.
  if (argv.includes('--recover')) return false;
  const events = journaledEvents(await readJournal(jobFiles(join(roots.jobs, jobId)).journal));
  const end = events.findLast(isTerminal)?.time;
  return end !== undefined && Date.now() - end.getTime() > ENDING_MS;
}

function stuckRunner({ pid }: ProcessArguments, jobId: string): Found {
  const reason = `Job ${jobId} has ended, and its runner has not.`;
  return ofDeadJob(KIND, `runner, process ${pid}`, jobId, () => killProcess(pid, jobId), reason);
}

/** A process that hung in a mount of the agent's when its parent was killed. */
async function orphanedHelper(
  { pid, argv }: ProcessArguments,
  mountsDirectory: string,
  all: readonly ProcessArguments[],
): Promise<Found | undefined> {
  const at = argv.findIndex((argument) => argument.endsWith('/repository/helper.ts'));
  const root = argv[at + 1] ?? '';
  if (at < 0 || !root.startsWith(`${mountsDirectory}/`)) return undefined;
  const parent = await parentOf(pid);
  const isRunner = all.some((other) => other.pid === parent && other.argv.some(isRunnerProgram));
  if (parent === undefined || parent === process.pid || isRunner) return undefined;
  const reason = 'It is the helper of a repository whose parent was killed.';
  return ofDeadJob(KIND, `helper, process ${pid}`, '', () => killProcess(pid, root), reason);
}

async function parentOf(pid: number): Promise<number | undefined> {
  const status = await readFile(`/proc/${pid}/status`, 'utf8').catch(() => '');
  const parent = /^PPid:\s+(\d+)$/m.exec(status)?.[1];
  return parent === undefined ? undefined : Number(parent);
}

/** Kills the process with this id as long as an argument of it holds the text: ids are used again. */
async function killProcess(pid: number, text: string): Promise<void> {
  const isThere = async (): Promise<boolean> =>
    (await allProcesses()).some((each) => each.pid === pid && each.argv.some((one) => one.includes(text)));
  if (!(await isThere())) return;
  signalProcess(pid, 'SIGKILL');
  const endMs = Date.now() + KILL_DEADLINE_MS;
  while (await isThere()) {
    if (Date.now() > endMs) throw new Error('It does not end, even by SIGKILL; its storage may hang.');
    await sleep(20);
  }
}
