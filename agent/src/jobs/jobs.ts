import { spawn } from 'node:child_process';
import { mkdir, open, readdir, rm, stat } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import pMap from 'p-map';
import { HoldfastError } from '@holdfast/common/errors.ts';
import type { Logger } from '@holdfast/common/logger.ts';
import { isUuid } from '@holdfast/common/uuid.ts';
import type { Control, Job, JobHeader } from '@holdfast/proto/holdfast/agent/v1/agent.ts';
import { RepositoryCredentials } from '@holdfast/proto/holdfast/v1/repository.ts';
import type { OperationEvent } from '@holdfast/proto/holdfast/v1/event.ts';
import { processesWithArgument } from '../process/identity.ts';
import { isTerminal, journaledEvents, readJournal } from './journal.ts';
import { runnerScope } from './runnerScope.ts';
import { jobFiles, jobRoots, readSpec, runnerSocket, writeSpec, type JobKind, type JobSpec } from './spec.ts';
import { readStart } from './start.ts';
import { describeUndo, pendingUndo } from './undo.ts';
import { commandRunner, followRunner } from './wire.ts';

/** The jobs of an agent: each in a runner process of its own, and known by its directory on local disk. */
export interface Jobs {
  /** Has a directory for each job, named by its id. */
  readonly root: string;
  /** Starts a job; one that is known already is left as it is. `start` is the message as JSON, with its secrets. */
  start(kind: JobKind, header: JobHeader, start: string): Promise<void>;
  /**
   * Events of a job after a number, those still to come included. A job whose runner was killed is undone on the way.
   *
   * @throws HoldfastError JOB_NOT_FOUND
   */
  follow(jobId: string, afterSequence: bigint, signal: AbortSignal): AsyncIterable<OperationEvent>;
  /** @throws HoldfastError JOB_NOT_FOUND */
  requireKnown(jobId: string): Promise<void>;
  /** Passes a command on. Commands to a job that has ended do nothing. */
  command(jobId: string, command: Control): Promise<void>;
  /** Keeps the credentials of a job's repository until the job has ended, in case that it must be undone. */
  remember(jobId: string, credentials: RepositoryCredentials | undefined): void;
  list(): Promise<readonly Job[]>;
  /**
   * Finds jobs whose runner was killed, undoes them, tries again to undo what could not be, and forgets jobs that ended
   * long ago.
   */
  recover(): Promise<void>;
  /** Whether a process works on a job, or is about to. */
  isAtWork(jobId: string): Promise<boolean>;
  /** Whether the agent still has a job's directory. */
  knows(jobId: string): Promise<boolean>;
  /** The jobs that nobody works on and that have not ended, or have not undone all that they should. */
  unfinished(): Promise<readonly UnfinishedJob[]>;
  /**
   * Undoes a job that nobody works on; what could not be undone stays unfinished.
   *
   * @param credentialsOf those of a repository, by its name
   * @throws when the runner fails
   */
  undo(
    jobId: string,
    credentialsOf: (repository: string) => RepositoryCredentials | undefined,
  ): Promise<void>;
}

/** A job that is to be undone. */
export interface UnfinishedJob {
  readonly jobId: string;
  readonly kind: JobKind;
  /** In words. */
  readonly pending: readonly string[];
  /** What its last try to undo them complained of. */
  readonly complaints: readonly string[];
}

export interface JobsOptions {
  readonly hostName: string;
  readonly libvirtUri: string;
  readonly stateDirectory: string;
  readonly runtimeDirectory: string;
  readonly scratchDirectory: string;
  readonly mountsDirectory: string;
  readonly logLevel: JobSpec['logLevel'];
  readonly logger: Logger;
}

const DAY = 86_400_000;
/** A start that is repeated within this time finds the job that it started. */
const FORGET_AFTER_MS = 7 * DAY;
const RETRY_MS = 100;
const RECOVER_RETRY_MS = 5_000;
/** Between attempts to undo what cannot be undone for now: as many minutes as it takes, then every hour. */
const FIRST_PAUSE_MS = 30_000;
const LONGEST_PAUSE_MS = 3_600_000;
/** One that waits for a NAS holds up no other. */
const RECOVER_AT_ONCE = 8;
const RUNNER = fileURLToPath(new URL('./runner.ts', import.meta.url));

export function jobsOf(options: JobsOptions): Jobs {
  const roots = jobRoots(options);
  const root = roots.jobs;
  const starting = new Map<string, Promise<void>>();
  const recovering = new Map<string, Promise<void>>();
  /** Those of running jobs' repositories, kept in memory for their recovery. */
  const known = new Map<string, RepositoryCredentials>();

  const directoryOf = (jobId: string): string => join(root, jobId);
  const isKnown = async (jobId: string): Promise<boolean> =>
    isUuid(jobId) && (await stat(jobFiles(directoryOf(jobId)).spec).catch(() => undefined)) !== undefined;
  const requireKnown = async (jobId: string): Promise<void> => {
    // A job that is just being started has no process yet, and is not dead.
    await starting.get(jobId)?.catch(() => undefined);
    if (!(await isKnown(jobId)))
      throw new HoldfastError('JOB_NOT_FOUND', `This agent knows no job ${JSON.stringify(jobId)}.`);
  };

  const startNew = async (kind: JobKind, header: JobHeader, start: string): Promise<void> => {
    const directory = directoryOf(header.jobId);
    await mkdir(directory, { recursive: true, mode: 0o700 });
    await writeSpec(directory, {
      jobId: header.jobId,
      kind,
      zone: header.zone,
      correlationId: header.correlationId,
      hostName: options.hostName,
      libvirtUri: options.libvirtUri,
      runtimeDirectory: join(roots.runtime, header.jobId),
      socketDirectory: join(roots.sockets, header.jobId),
      scratchDirectory: join(roots.scratch, header.jobId),
      locksDirectory: roots.locks,
      mountsDirectory: options.mountsDirectory,
      logLevel: options.logLevel,
    });
    await spawnRunner(directory, [], start);
    options.logger.info('job started', { jobId: header.jobId, kind, correlationId: header.correlationId });
  };
  /** One recovery of a job at a time, however many ask for it. */
  const recoverOne = (jobId: string): Promise<void> => {
    const known = recovering.get(jobId);
    if (known !== undefined) return known;
    options.logger.warn('the runner of a job is gone, recovering', { jobId });
    const made = spawnRunner(directoryOf(jobId), ['--recover'], credentialsOf(jobId), true).finally(() =>
      recovering.delete(jobId),
    );
    recovering.set(jobId, made);
    return made;
  };

  const isBusy = (jobId: string): boolean => starting.has(jobId) || recovering.has(jobId);

  const remember: Jobs['remember'] = (jobId, credentials) => {
    if (credentials !== undefined) known.set(jobId, credentials);
  };
  /** For a pipe only. */
  const credentialsOf = (jobId: string): string => {
    const credentials = known.get(jobId);
    return credentials === undefined ? '' : JSON.stringify(RepositoryCredentials.toJSON(credentials));
  };
  /** Undoes what could not be undone before the password had come again, then forgets that. */
  const settle = async (jobId: string): Promise<void> => {
    try {
      await recovering.get(jobId)?.catch(() => undefined);
      const entries = await readJournal(jobFiles(directoryOf(jobId)).journal);
      if (pendingUndo(entries).length === 0) known.delete(jobId);
      else if ((await processesWithArgument(directoryOf(jobId))).length === 0) await recoverOne(jobId);
    } catch (error) {
      options.logger.error('could not undo the rest of a job', { jobId, error });
    }
  };

  /** Jobs that have ended, with nothing left to be undone. */
  const settled = new Set<string>();
  /** When a job's recovery may be tried again, by performance.now(), and after which pause then. */
  const retries = new Map<string, { readonly atMs: number; readonly pauseMs: number }>();
  const isTime = (jobId: string): boolean => {
    const { atMs, pauseMs } = retries.get(jobId) ?? { atMs: 0, pauseMs: FIRST_PAUSE_MS };
    const nowMs = performance.now();
    if (nowMs < atMs) return false;
    retries.set(jobId, { atMs: nowMs + pauseMs, pauseMs: Math.min(2 * pauseMs, LONGEST_PAUSE_MS) });
    return true;
  };
  const recoverIfDead = async (jobId: string): Promise<void> => {
    const directory = directoryOf(jobId);
    const isStarted = await isKnown(jobId);
    if (isStarted && !settled.has(jobId)) {
      const entries = await readJournal(jobFiles(directory).journal);
      if (!isEnded(journaledEvents(entries)) || pendingUndo(entries).length > 0) {
        if (isTime(jobId) && (await isGone(directory))) await recoverOne(jobId);
        return;
      }
      settled.add(jobId);
      retries.delete(jobId);
      known.delete(jobId);
    }
    const { mtimeMs } = await stat(directory);
    if (Date.now() - mtimeMs < FORGET_AFTER_MS) return;
    await rm(directory, { recursive: true });
    settled.delete(jobId);
  };

  const recoverUnlessStarting = async (jobId: string): Promise<void> => {
    // One that is just being started has no process yet, and is not dead.
    if (starting.has(jobId)) return;
    await recoverIfDead(jobId).catch((error: unknown) => {
      options.logger.error('could not recover a job', { jobId, error });
    });
  };

  return {
    root,
    requireKnown,
    start: async (kind, header, start) => {
      if (!isUuid(header.jobId)) throw new HoldfastError('INVALID_REQUEST', 'header.job_id must be a UUID.');
      remember(header.jobId, readStart(kind, start).credentials);
      const inFlight = starting.get(header.jobId);
      if (inFlight !== undefined) return inFlight;
      if (await isKnown(header.jobId)) return;
      // Asked again, since looking took a moment.
      const started = starting.get(header.jobId) ?? startNew(kind, header, start);
      starting.set(header.jobId, started);
      return started.finally(() => starting.delete(header.jobId));
    },
    follow: async function* (jobId, afterSequence, signal) {
      await requireKnown(jobId);
      const directory = directoryOf(jobId);
      const spec = await readSpec(directory);
      let sent = afterSequence;
      for (;;) {
        const live = await followRunner(runnerSocket(spec), sent, signal);
        const events = live ?? (await newEvents(directory, sent));
        for await (const event of events) {
          yield event;
          if (event.sequence > sent) sent = event.sequence;
          if (!isTerminal(event)) continue;
          void settle(jobId);
          return;
        }
        if (signal.aborted) return;
        if (live !== undefined) continue;
        if (isEnded(await newEvents(directory, 0n))) {
          // The last event was handled before; there is none to come.
          if ((await newEvents(directory, sent)).length === 0) return;
          continue;
        }
        if (!(await isGone(directory))) await sleep(RETRY_MS);
        // One that has just ended is gone, too.
        else if (!isEnded(await newEvents(directory, 0n)))
          await recoverOne(jobId).catch(() => sleep(RECOVER_RETRY_MS));
      }
    },
    command: async (jobId, command) => {
      const spec = await readSpec(directoryOf(jobId));
      while (!(await commandRunner(runnerSocket(spec), command))) {
        if (isEnded(await newEvents(directoryOf(jobId), 0n))) return;
        if ((await processesWithArgument(directoryOf(jobId))).length === 0) return;
        // It has started and does not listen yet, or has ended its work and not yet said so.
        await sleep(RETRY_MS);
      }
    },
    remember,
    knows: isKnown,
    isAtWork: async (jobId) => isBusy(jobId) || !(await isGone(directoryOf(jobId))),
    unfinished: async () => {
      const found: UnfinishedJob[] = [];
      for (const jobId of await knownJobs(root)) {
        const directory = directoryOf(jobId);
        const entries = await readJournal(jobFiles(directory).journal);
        const events = journaledEvents(entries);
        const pending = pendingUndo(entries);
        if (isEnded(events) && pending.length === 0) continue;
        // A job that is just being started has no process yet, and is not dead.
        if (isBusy(jobId) || !(await isGone(directory))) continue;
        const { kind } = await readSpec(directory);
        const complaints = events.flatMap(({ event }) =>
          event?.$case === 'warning' && event.value.reason === 'LEFTOVERS' ? [event.value.message] : [],
        );
        found.push({
          jobId,
          kind,
          pending: pending.map(({ action }) => describeUndo(action)),
          complaints: complaints.slice(-pending.length),
        });
      }
      return found;
    },
    undo: async (jobId, credentialsOf) => {
      for (const { action } of pendingUndo(await readJournal(jobFiles(directoryOf(jobId)).journal)))
        if (action.kind === 'remove-folder') remember(jobId, credentialsOf(action.repository.name));
      try {
        await recoverOne(jobId);
      } finally {
        known.delete(jobId);
      }
    },
    list: async () => {
      const jobs: Job[] = [];
      for (const jobId of await knownJobs(root)) {
        const spec = await readSpec(directoryOf(jobId));
        const events = await newEvents(directoryOf(jobId), 0n);
        jobs.push({
          jobId,
          kind: spec.kind,
          finished: isEnded(events),
          lastSequence: events.at(-1)?.sequence ?? 0n,
        });
      }
      return jobs;
    },
    recover: async () => {
      await pMap(await readdir(root).catch(() => []), recoverUnlessStarting, {
        concurrency: RECOVER_AT_ONCE,
      });
    },
  };
}

async function newEvents(directory: string, afterSequence: bigint): Promise<readonly OperationEvent[]> {
  const events = journaledEvents(await readJournal(jobFiles(directory).journal));
  return events.filter((event) => event.sequence > afterSequence);
}

/** Whether no process works on a job. One that is in execve(2) has no arguments for a moment, so it is looked twice. */
async function isGone(directory: string): Promise<boolean> {
  if ((await processesWithArgument(directory)).length > 0) return false;
  await sleep(RETRY_MS);
  return (await processesWithArgument(directory)).length === 0;
}

function isEnded(events: readonly OperationEvent[]): boolean {
  return events.some(isTerminal);
}

/** The ids of the jobs that have a directory with a spec in it. */
async function knownJobs(root: string): Promise<readonly string[]> {
  const names = await readdir(root).catch(() => []);
  const found = await Promise.all(
    names.map(async (name) =>
      (await stat(jobFiles(join(root, name)).spec).catch(() => undefined)) ? name : undefined,
    ),
  );
  return found.filter((name) => name !== undefined);
}

/** Starts a runner that outlives the agent: in a session and a scope of its own. Waits for its end only when asked to. */
async function spawnRunner(
  directory: string,
  flags: readonly string[],
  input: string,
  wait = false,
): Promise<void> {
  const log = await open(jobFiles(directory).log, 'a', 0o600);
  // Keys must not end in a core file; the limit holds for all that the runner starts.
  const [program = '', ...args] = [
    ...runnerScope(basename(directory)),
    ...['prlimit', '--core=0:0', process.execPath, RUNNER, directory, ...flags],
  ];
  const child = spawn(program, args, {
    detached: true,
    stdio: ['pipe', log.fd, log.fd],
  });
  await new Promise<void>((resolve, reject) => {
    child.once('error', reject);
    child.once('spawn', resolve);
  }).finally(() => log.close());
  // A runner that dies before it has read its start is found by whoever follows it.
  child.stdin?.on('error', () => undefined).end(input);
  if (!wait) {
    child.unref();
    return;
  }
  const code = await new Promise<number | null>((resolve) => {
    child.once('exit', resolve);
  });
  if (code !== 0) throw new Error(`the recovering runner ended with exit code ${code ?? 'none'}`);
}
