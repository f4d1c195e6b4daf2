import { LeftoverState, type LeftoverKind } from '@holdfast/proto/holdfast/v1/leftover.ts';
import type { RepositoryCredentials } from '@holdfast/proto/holdfast/v1/repository.ts';
import type { Virsh } from '../libvirt/virsh.ts';
import type { Jobs } from '../jobs/jobs.ts';
import type { JobRoots } from '../jobs/spec.ts';

/** Something that was left, or that lies where leftovers do and is kept. */
export interface Found {
  readonly kind: LeftoverKind;
  /** Which one of its kind on this host. */
  readonly name: string;
  /** Empty when it is of no job. */
  readonly jobId: string;
  readonly state: LeftoverState;
  /** A sentence: why it is a leftover, or why it is kept. */
  readonly reason: string;
  /** Removes it; finding it gone is no error. Undefined for what is kept. */
  readonly remove: (() => Promise<void>) | undefined;
}

/** What an agent looks with. */
export interface LookParts {
  readonly jobs: Pick<Jobs, 'isAtWork' | 'knows' | 'unfinished' | 'undo'>;
  readonly virsh: Virsh;
  readonly roots: JobRoots;
  readonly runtimeDirectory: string;
  readonly mountsDirectory: string;
  /** Is there (0700, on tmpfs) for the keys of Ceph clusters while they are asked. */
  readonly keysDirectory: string;
  /** Those of a repository, by its name; a job that wrote to it cannot be undone without them. */
  readonly credentialsOf: (repository: string) => RepositoryCredentials | undefined;
}

/** A leftover of a job that nobody works on: it lies where only this agent's jobs put things. */
export function ofDeadJob(
  kind: LeftoverKind,
  name: string,
  jobId: string,
  remove: () => Promise<void>,
  reason = `No process works on job ${jobId} any more.`,
): Found {
  return { kind, name, jobId, state: LeftoverState.LEFTOVER_STATE_REMOVABLE, reason, remove };
}

/**
 * Something that carries a job's id where other hosts can put it, too. When this agent knows the job, it is dead;
 * otherwise the controller must say.
 */
export async function ofAnyHost(
  { jobs }: LookParts,
  kind: LeftoverKind,
  name: string,
  jobId: string,
  remove: () => Promise<void>,
): Promise<Found> {
  if (await jobs.knows(jobId)) return ofDeadJob(kind, name, jobId, remove);
  const reason = `This host knows no job ${jobId}; another one may be at work on it.`;
  return { kind, name, jobId, state: LeftoverState.LEFTOVER_STATE_UNDECIDED, reason, remove };
}

/** Something that is not proved to be the agent's own. */
export function kept(kind: LeftoverKind, name: string, reason: string): Found {
  return { kind, name, jobId: '', state: LeftoverState.LEFTOVER_STATE_KEPT, reason, remove: undefined };
}
