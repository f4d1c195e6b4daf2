import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';

/** What a job can be: the name of its method in the contract. */
export type JobKind = 'TakeBackup' | 'VerifyBackup' | 'RestoreBackup';

/** Everything a runner needs to know of its job but the secrets, which go through its standard input. */
export interface JobSpec {
  readonly jobId: string;
  readonly kind: JobKind;
  readonly zone: string;
  readonly correlationId: string;
  readonly hostName: string;
  readonly libvirtUri: string;
  /** Private to the job, on tmpfs. */
  readonly runtimeDirectory: string;
  /** For the socket that QEMU makes, on tmpfs. */
  readonly socketDirectory: string;
  /** For scratch images, on local disk. */
  readonly scratchDirectory: string;
  readonly locksDirectory: string;
  /** Where repositories are mounted, one directory for all jobs of the agent. */
  readonly mountsDirectory: string;
  readonly logLevel: 'debug' | 'info' | 'warn' | 'error';
}

/** The directories on a host in which each job has one of its own, named by its id; and that of the locks. */
export interface JobRoots {
  /** What is durable: specification, journal, log. */
  readonly jobs: string;
  readonly runtime: string;
  readonly sockets: string;
  readonly scratch: string;
  readonly locks: string;
}

/** Where an agent's directories have them. */
export function jobRoots(agent: {
  readonly stateDirectory: string;
  readonly runtimeDirectory: string;
  readonly scratchDirectory: string;
}): JobRoots {
  return {
    jobs: join(agent.stateDirectory, 'jobs'),
    runtime: join(agent.runtimeDirectory, 'jobs'),
    sockets: join(agent.runtimeDirectory, 'nbd'),
    scratch: agent.scratchDirectory,
    locks: join(agent.stateDirectory, 'locks'),
  };
}

/** The files of a job's directory, which stays until the job is forgotten. */
export function jobFiles(directory: string): { spec: string; journal: string; log: string } {
  return {
    spec: join(directory, 'job.json'),
    journal: join(directory, 'journal.ndjson'),
    log: join(directory, 'runner.log'),
  };
}

/** Where a job's runner listens. */
export function runnerSocket(spec: JobSpec): string {
  return join(spec.runtimeDirectory, 'runner.sock');
}

export async function writeSpec(directory: string, spec: JobSpec): Promise<void> {
  await writeFile(jobFiles(directory).spec, JSON.stringify(spec), { mode: 0o600, flag: 'wx', flush: true });
}

export async function readSpec(directory: string): Promise<JobSpec> {
  return JSON.parse(await readFile(jobFiles(directory).spec, 'utf8')) as JobSpec;
}
