/**
 * The program that does one job, from its start to its last event, in a process of its own: it outlives the agent, and
 * what it must undo stands in its journal, so that the agent can start it again with --recover when it was killed.
 *
 *     runner.ts JOB-DIRECTORY < start message as JSON
 *     runner.ts JOB-DIRECTORY --recover < the repository's credentials as JSON, or nothing
 */
import { mkdir } from 'node:fs/promises';
import { text } from 'node:stream/consumers';
import { createLogger, type Logger } from '@holdfast/common/logger.ts';
import { RepositoryCredentials } from '@holdfast/proto/holdfast/v1/repository.ts';
import type { Completed } from '@holdfast/proto/holdfast/v1/event.ts';
import type { JobContext, StageRun } from '../stages/context.ts';
import { virshAt } from '../libvirt/virsh.ts';
import type { LivenessChange } from '../repository/liveness.ts';
import { placeOf, type JournaledRef, type Repository } from '../repository/repository.ts';
import { orAbandoned } from './abandon.ts';
import { controlOf } from './control.ts';
import { endWhenIdle } from './endWhenIdle.ts';
import { eventLog, type EventLog, type JobEvent } from './eventLog.ts';
import { toFailure } from './failure.ts';
import { isTerminal, journaledEvents, openJournal, readJournal, type JournalEntry } from './journal.ts';
import { obey } from './obey.ts';
import { publishedBackup } from './published.ts';
import { repositoryAccess } from './repositoryAccess.ts';
import { readStart, type StartedJob } from './start.ts';
import { jobFiles, readSpec, runnerSocket, type JobSpec } from './spec.ts';
import { summarize } from './summary.ts';
import { describeUndo, pendingUndo, undoLog, type UndoLog } from './undo.ts';
import { serveRunner } from './wire.ts';

const [directory, flag] = process.argv.slice(2);
if (directory === undefined) throw new Error('runner.ts JOB-DIRECTORY [--recover]');

/** A libvirtd that is restarted is back within seconds; guests and their backup jobs go on meanwhile. */
const LIBVIRT_PATIENCE_MS = 15_000;

const files = jobFiles(directory);
const spec = await readSpec(directory);
const logger = createLogger({ level: spec.logLevel, format: 'json' }).child({
  jobId: spec.jobId,
  correlationId: spec.correlationId,
});
const now = (): Date => new Date();
const earlier = await readJournal(files.journal);
const journal = await openJournal(files.journal);
const virsh = virshAt(spec.libvirtUri, logger, { patienceMs: LIBVIRT_PATIENCE_MS });
const input = await text(process.stdin);
const job = flag === undefined ? readStart(spec.kind, input) : undefined;
const known =
  flag === undefined || input === '' ? undefined : RepositoryCredentials.fromJSON(JSON.parse(input));
const notes: string[] = [];
const access = repositoryAccess(spec.mountsDirectory, job?.credentials ?? known);
const undo = undoLog(journal, earlier, {
  virsh,
  openRepository: access.open,
  tell: (note) => notes.push(note),
  isHurried: access.isHurried,
});
const events = eventLog(journal, journaledEvents(earlier), now);
const summary = summarize();

if (flag === '--recover') {
  await recover();
} else {
  if (job === undefined) throw new Error('a job is started with its start message');
  await runJob(job);
}
await journal.close();
// Helpers and sockets that hang in a dead NAS must not keep a finished job's process alive.
process.exit(0);

/** Runs the job and ends it with its last event, once everything is undone that is not part of the result. */
async function runJob(started: StartedJob): Promise<void> {
  const control = controlOf(started.limitMibps, undefined, started.shareBytesPerSecond);
  process.on('SIGTERM', () => {
    control.cancel();
  });
  await makeDirectories(spec, undo);
  const server = await serveRunner(runnerSocket(spec), events, (command) => obey(command, control, events));
  const { limits } = started;
  const over = new AbortController();
  void endWhenIdle(control, {
    timeoutMs: limits.timeoutMs,
    isStalled: access.isStalled,
    signal: over.signal,
  });
  const context: JobContext = {
    header: started.header,
    hostName: spec.hostName,
    // What undoes goes on when the job is cancelled, and has one of its own.
    virsh: virshAt(spec.libvirtUri, logger, { patienceMs: LIBVIRT_PATIENCE_MS, signal: control.signal }),
    journal,
    undo,
    control,
    logger,
    runtimeDirectory: spec.runtimeDirectory,
    socketDirectory: spec.socketDirectory,
    scratchDirectory: spec.scratchDirectory,
    locksDirectory: spec.locksDirectory,
    openRepository: access.forJob(undo, {
      waitMs: limits.repositoryWaitMs,
      signal: control.signal,
      tell: (name) => (change) => {
        void tellLiveness(name, change);
      },
      moved: () => {
        control.moved();
      },
    }),
    summary: () => summary,
    now,
  };
  await events.append({ $case: 'accepted', value: { stages: started.stages } });
  const end = await outcome(started.run(context), control.signal, events, summary.note, logger);
  over.abort();
  access.close();
  await finish(await asPublished(end));
  server.close();
}

/** Not a part of any stage: it happens while one waits. */
async function tellLiveness(repository: string, change: LivenessChange): Promise<void> {
  if (change.kind === 'stalled') {
    const { since, giveUp: giveUpTime } = change;
    await events.append({ $case: 'repositoryStalled', value: { repository, since, giveUpTime } });
    return;
  }
  const { stalledMs } = change;
  await events.append({
    $case: 'repositoryAnswered',
    value: { repository, stalledMs: BigInt(Math.round(stalledMs)) },
  });
  const told: JobEvent = {
    $case: 'warning',
    value: {
      reason: 'REPOSITORY_STALLED',
      message: `Repository ${repository} did not answer for ${Math.round(stalledMs / 1_000)} s. It was waited for.`,
      target: '',
    },
  };
  summary.note(told);
  await events.append(told);
}

/**
 * A rename whose answer did not come may have happened. Then the backup is there, whatever its job was told; and when that
 * cannot be known now, it is removed as soon as it can.
 */
async function asPublished(end: JobEvent): Promise<JobEvent> {
  if (end.$case !== 'failed') return end;
  const entries = await readJournal(files.journal);
  const publishing = entries.findLast((entry) => entry.kind === 'publishing');
  if (publishing === undefined) return end;
  const found = await publishedBackup(entries, (ref) => access.open(ref)).catch(() => undefined);
  if (found !== undefined)
    return { $case: 'completed', value: { result: { $case: 'backup', value: found } } };
  const { repository, folder } = publishing;
  await undo.promise({ kind: 'remove-folder', repository, folder });
  return end;
}

/** Ends a job whose runner was killed: as completed when its backup is there, whole, and as failed otherwise. */
async function recover(): Promise<void> {
  logger.warn('recovering', { pending: earlier.length });
  const published = isGivenUp(earlier) ? undefined : await publishedBackup(earlier, openMounted);
  const value: Completed | undefined =
    published === undefined ? undefined : { result: { $case: 'backup', value: published } };
  await finish(
    value === undefined
      ? { $case: 'failed', value: toFailure('RUNNER_DIED', spec) }
      : { $case: 'completed', value },
  );
}

async function openMounted(ref: JournaledRef): Promise<Repository> {
  const place = placeOf(ref, spec.mountsDirectory);
  if (place !== undefined) await undo.promise({ kind: 'unmount', directory: place.directory });
  return access.open(ref);
}

/** Whether the job had decided before it was killed that what it published is to be removed. */
function isGivenUp(entries: readonly JournalEntry[]): boolean {
  const publishing = entries.findLast((entry) => entry.kind === 'publishing');
  return pendingUndo(entries).some(
    ({ action }) => action.kind === 'remove-folder' && action.folder === publishing?.folder,
  );
}

async function finish(end: JobEvent): Promise<void> {
  const failures = await undo.all();
  for (const { action, error } of failures)
    logger.error('could not undo', { action: describeUndo(action), error });
  // What is tried again after the job's end is for the log alone.
  if (journaledEvents(earlier).some(isTerminal)) return;
  for (const { action, error } of failures) {
    const message = `Could not ${describeUndo(action)}: ${error instanceof Error ? error.message : String(error)} The agent goes on trying.`;
    await events.append({ $case: 'warning', value: { reason: 'LEFTOVERS', message, target: '' } });
  }
  for (const message of notes) {
    await events.append({ $case: 'warning', value: { reason: 'UNMOUNTED_LAZILY', message, target: '' } });
  }
  await events.append(end);
}

async function outcome(
  run: StageRun<Completed>,
  signal: AbortSignal,
  log: EventLog,
  note: (event: JobEvent) => void,
  jobLogger: Logger,
): Promise<JobEvent> {
  try {
    for (;;) {
      const step = await orAbandoned(run.next(), signal);
      if (step.done === true) return { $case: 'completed', value: step.value };
      note(step.value);
      if (step.value.$case !== 'stageProgress') jobLogger.info(step.value.$case, { event: step.value.value });
      await log.append(step.value);
    }
  } catch (error) {
    jobLogger.error('job failed', { error });
    return { $case: 'failed', value: toFailure(error, spec) };
  }
}

async function makeDirectories(
  { runtimeDirectory, socketDirectory, scratchDirectory }: JobSpec,
  undoing: UndoLog,
): Promise<void> {
  for (const path of [runtimeDirectory, socketDirectory, scratchDirectory]) {
    await undoing.promise({ kind: 'remove-local', path });
  }
  await mkdir(runtimeDirectory, { recursive: true, mode: 0o700 });
}
