import { setTimeout as sleep } from 'node:timers/promises';
import { fromStatus, type HoldfastError } from '@holdfast/common/errors.ts';
import type { OperationEvent } from '@holdfast/proto/holdfast/v1/event.ts';
import { RepositoryState, type RepositoryHealth } from '@holdfast/proto/holdfast/v1/repository.ts';

/** How repositories look from the hosts that have used them since the controller started. */
export interface Health {
  /** By the hosts' names. */
  of(repository: string): RepositoryHealth[];
  /** What a host found when it was asked; undefined: it answers. An agent that is away says nothing. */
  note(repository: string, host: string, error: HoldfastError | undefined, since?: Date): void;
  /** What an event of a host's job says of its repository. */
  noteEvent(repository: string, host: string, event: OperationEvent): void;
  forget(repository: string): void;
}

const EVERY_MS = 5_000;

/** @param ask asks a host about a repository, and notes what it says; called again and again while it is stalled */
export function createHealth(parts: {
  readonly ask: (repository: string, host: string) => Promise<void>;
  readonly now: () => Date;
  readonly stopping: AbortSignal;
  readonly everyMs?: number;
}): Health {
  const { ask, now, stopping, everyMs = EVERY_MS } = parts;
  const known = new Map<string, Map<string, RepositoryHealth>>();
  const asking = new Set<string>();

  const stateOf = (repository: string, host: string): RepositoryState | undefined =>
    known.get(repository)?.get(host)?.state;
  const askUntilItAnswers = async (repository: string, host: string): Promise<void> => {
    const key = JSON.stringify([repository, host]);
    if (asking.has(key)) return;
    asking.add(key);
    try {
      while (stateOf(repository, host) === RepositoryState.REPOSITORY_STATE_STALLED) {
        await sleep(everyMs, undefined, { signal: stopping, ref: false });
        // A host that is gone, or a repository, says nothing; the next one to use it does.
        await ask(repository, host).catch(() => undefined);
      }
    } finally {
      asking.delete(key);
    }
  };
  const set = (
    repository: string,
    host: string,
    state: RepositoryState,
    message: string,
    since?: Date,
  ): void => {
    const hosts = known.get(repository) ?? new Map<string, RepositoryHealth>();
    known.set(repository, hosts);
    const before = hosts.get(host);
    const checkTime = now();
    const unchanged = before?.state === state ? before.since : undefined;
    hosts.set(host, { host, state, message, checkTime, since: unchanged ?? since ?? checkTime });
    if (state === RepositoryState.REPOSITORY_STATE_STALLED)
      void askUntilItAnswers(repository, host).catch(() => undefined);
  };
  const note: Health['note'] = (repository, host, error, since) => {
    if (error?.reason === 'AGENT_UNREACHABLE') return;
    set(repository, host, stateAfter(error), error?.message ?? '', since);
  };
  return {
    of: (repository) =>
      [...(known.get(repository)?.values() ?? [])].sort((one, other) => (one.host < other.host ? -1 : 1)),
    note,
    noteEvent: (repository, host, { event, time }) => {
      switch (event?.$case) {
        case 'repositoryStalled':
          set(
            repository,
            host,
            RepositoryState.REPOSITORY_STATE_STALLED,
            'It does not answer; an operation waits for it.',
            event.value.since ?? time,
          );
          return;
        case 'repositoryAnswered':
        case 'completed':
          note(repository, host, undefined);
          return;
        case 'failed': {
          const error = fromStatus(event.value);
          if (error.reason === 'REPOSITORY_STALLED') note(repository, host, error);
          return;
        }
        default:
      }
    },
    forget: (repository) => {
      known.delete(repository);
    },
  };
}

function stateAfter(error: HoldfastError | undefined): RepositoryState {
  switch (error?.reason) {
    case undefined:
      return RepositoryState.REPOSITORY_STATE_ANSWERING;
    case 'REPOSITORY_STALLED':
      return RepositoryState.REPOSITORY_STATE_STALLED;
    default:
      return RepositoryState.REPOSITORY_STATE_UNUSABLE;
  }
}
