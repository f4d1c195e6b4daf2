import { HoldfastError } from '@holdfast/common/errors.ts';
import { LeftoverKind, LeftoverState, type Leftover } from '@holdfast/proto/holdfast/v1/leftover.ts';
import { directoriesLeft } from './directories.ts';
import { inDomains } from './domains.ts';
import { ofDeadJob, type Found, type LookParts } from './found.ts';
import { locksLeft } from './locks.ts';
import { mountsLeft } from './mounts.ts';
import { processesLeft } from './processes.ts';

/** What was found on a host. */
export interface HostLeftovers {
  readonly found: readonly Found[];
  /** The jobs that any process works for, also one that is left over itself. */
  readonly busyJobIds: readonly string[];
  /** What could not be asked. */
  readonly problems: readonly HoldfastError[];
}

const K = LeftoverKind;
/** The guest comes first; then what depends on other things goes before them. */
const ORDER: readonly LeftoverKind[] = [
  K.LEFTOVER_KIND_UNFINISHED_JOB,
  K.LEFTOVER_KIND_FROZEN_GUEST,
  K.LEFTOVER_KIND_LIBVIRT_JOB,
  K.LEFTOVER_KIND_PROCESS,
  K.LEFTOVER_KIND_MOUNT,
  K.LEFTOVER_KIND_SCRATCH,
  K.LEFTOVER_KIND_SOCKET_DIRECTORY,
  K.LEFTOVER_KIND_CHECKPOINT,
  K.LEFTOVER_KIND_RBD_SNAPSHOT,
  // Last: it says whose a freeze is.
  K.LEFTOVER_KIND_LOCK,
];
/** While these are there, a guest may need whatever else its job has left. */
const GUEST_KINDS: readonly LeftoverKind[] = [K.LEFTOVER_KIND_FROZEN_GUEST, K.LEFTOVER_KIND_LIBVIRT_JOB];
/** A domain's QEMU may be working with these. */
const BEHIND_LIBVIRT: readonly LeftoverKind[] = [
  K.LEFTOVER_KIND_PROCESS,
  K.LEFTOVER_KIND_MOUNT,
  K.LEFTOVER_KIND_SCRATCH,
  K.LEFTOVER_KIND_SOCKET_DIRECTORY,
  K.LEFTOVER_KIND_LOCK,
];

/**
 * Looks for what interrupted jobs have left on this host. Changes nothing. Looks again when something is found: a job that
 * has ended between two questions has left nothing.
 */
export async function leftOnHost(parts: LookParts): Promise<HostLeftovers> {
  const first = await lookOnce(parts);
  if (first.found.length === 0) return first;
  const second = await lookOnce(parts);
  return {
    found: second.found.filter((each) => first.found.some((other) => isSame(each, other))),
    busyJobIds: [...new Set([...first.busyJobIds, ...second.busyJobIds])],
    problems: second.problems,
  };
}

async function lookOnce(parts: LookParts): Promise<HostLeftovers> {
  const [domains, processes, ...others] = await Promise.all([
    inDomains(parts).catch((error: unknown) => {
      if (!(error instanceof HoldfastError)) throw error;
      return error;
    }),
    processesLeft(parts),
    unfinishedJobs(parts),
    mountsLeft(parts),
    directoriesLeft(parts),
    locksLeft(parts),
  ]);
  const found = [...processes.found, ...others.flat()];
  const { busyJobIds } = processes;
  if (domains instanceof HoldfastError)
    return { found: found.map(keptWithoutLibvirt), busyJobIds, problems: [domains] };
  return { found: [...found, ...domains.found], busyJobIds, problems: domains.problems };
}

/**
 * Removes leftovers that are still found, the guests' first. What a job has left beside a guest stays as long as the guest
 * could not be let go.
 *
 * @param isWanted which of those that are found
 * @returns what became of each of them: looked at again, not believed
 */
export async function removeFromHost(
  parts: LookParts,
  isWanted: (found: Found) => boolean,
): Promise<readonly Found[]> {
  const before = await leftOnHost(parts);
  const wanted = before.found.filter((each) => each.remove !== undefined && isWanted(each));
  const held = new Set(
    before.found
      .filter((each) => GUEST_KINDS.includes(each.kind) && !wanted.includes(each))
      .map(({ jobId }) => jobId),
  );
  const failures = new Map<Found, string>();
  for (const each of wanted.toSorted((one, other) => ORDER.indexOf(one.kind) - ORDER.indexOf(other.kind))) {
    try {
      if (held.has(each.jobId))
        throw new Error(`The guest that job ${each.jobId} worked on must be let go first.`);
      await each.remove?.();
    } catch (error) {
      if (GUEST_KINDS.includes(each.kind)) held.add(each.jobId);
      failures.set(each, error instanceof Error ? error.message : String(error));
    }
  }
  const after = await leftOnHost(parts);
  return wanted.map((each) => {
    const still = after.found.find((other) => isSame(each, other));
    if (still === undefined) return { ...each, state: LeftoverState.LEFTOVER_STATE_REMOVED };
    const reason = failures.get(each) ?? still.reason;
    return { ...each, state: LeftoverState.LEFTOVER_STATE_FAILED, reason };
  });
}

/** Whether two are the same thing. */
export function isSame(one: Pick<Found, 'kind' | 'name'>, other: Pick<Leftover, 'kind' | 'name'>): boolean {
  return one.kind === other.kind && one.name === other.name;
}

async function unfinishedJobs({ jobs, credentialsOf }: LookParts): Promise<Found[]> {
  return (await jobs.unfinished()).map(({ jobId, kind, pending, complaints }) => {
    const owed = pending.length === 0 ? 'Its end was never noted.' : `To be done: ${pending.join('; ')}.`;
    const reason = [`${kind} was interrupted.`, owed, ...complaints].join(' ');
    const name = `job ${jobId}`;
    const undo = (): Promise<void> => jobs.undo(jobId, credentialsOf);
    return ofDeadJob(K.LEFTOVER_KIND_UNFINISHED_JOB, name, jobId, undo, reason);
  });
}

function keptWithoutLibvirt(found: Found): Found {
  if (!BEHIND_LIBVIRT.includes(found.kind) || found.jobId === '') return found;
  const reason = 'libvirt does not answer, so nobody knows whether a domain still works with it.';
  return { ...found, state: LeftoverState.LEFTOVER_STATE_KEPT, reason, remove: undefined };
}
