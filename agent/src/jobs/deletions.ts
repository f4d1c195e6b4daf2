import { HoldfastError } from '@holdfast/common/errors.ts';
import type { DeleteBackupRequest, RepositoryRef } from '@holdfast/proto/holdfast/agent/v1/agent.ts';
import { orAbort } from '../process/orAbort.ts';
import { deleteBackup } from '../repository/deleteBackup.ts';
import { watchRepository } from '../repository/liveness.ts';
import type { Repositories } from '../repository/repositories.ts';
import { STALLED_AFTER_MS, type Deadlines } from '../repository/repository.ts';
import { controlOf, type Control } from './control.ts';
import { endWhenIdle } from './endWhenIdle.ts';

const MINUTE_MS = 60_000;
/** How long a repository that is stalled is waited for: nobody sees of a deletion that it waits. */
const WAIT_MS = 20_000;
/** Whether it is given up is for the watch to say, which asks all the time: unlinking terabytes takes a NAS its time. */
const PATIENT: Deadlines = {
  deadlineMs: 24 * 60 * MINUTE_MS,
  slowDeadlineMs: 24 * 60 * MINUTE_MS,
  answerDeadlineMs: STALLED_AFTER_MS + WAIT_MS,
};

type Wanted = Pick<DeleteBackupRequest, 'backupId' | 'path' | 'timeoutMinutes' | 'onlyBegun'>;

/** The deletions under way. They are the agent's own work, without a runner: done again, they end what was begun. */
export interface Deletions {
  /**
   * Deletes a backup; waits for the deletion of it that is under way, when there is one.
   *
   * @throws HoldfastError CANCELLED, REPOSITORY_STALLED, TIMED_OUT, and as `deleteBackup`
   */
  run(repository: RepositoryRef, wanted: Wanted): Promise<{ readonly freedBytes: bigint }>;
  /** Cancels that of a backup, if there is one. True: it is too late, the backup may be out of its place already. */
  cancel(backupId: string): boolean;
}

interface Deletion {
  readonly control: Control;
  /** Whether it has come to its point of no return. */
  begun: boolean;
}

export function deletionsIn(repositories: Pick<Repositories, 'useAlone'>): Deletions {
  const running = new Map<string, Deletion & { readonly ended: Promise<{ readonly freedBytes: bigint }> }>();
  const cancel: Deletions['cancel'] = (backupId) => {
    const found = running.get(backupId);
    if (found === undefined) return false;
    if (!found.begun) found.control.fail(cancelled(backupId));
    return found.begun;
  };
  return {
    cancel,
    run: async (repository, wanted) => {
      const { backupId } = wanted;
      if (wanted.onlyBegun) cancel(backupId);
      const known = running.get(backupId);
      if (known !== undefined) return await known.ended;
      const deletion: Deletion = { control: controlOf(0), begun: false };
      const ended = carryOut(repositories, repository, wanted, deletion).finally(() => {
        running.delete(backupId);
      });
      running.set(backupId, Object.assign(deletion, { ended }));
      return await ended;
    },
  };
}

/** The error of a deletion that has touched nothing, since that was wished. Names the backup, as no error of gRPC does. */
export function cancelled(backupId: string): HoldfastError {
  return new HoldfastError('CANCELLED', 'The deletion was cancelled. The backup is as it was.', {
    metadata: { backup: backupId },
  });
}

async function carryOut(
  repositories: Pick<Repositories, 'useAlone'>,
  ref: RepositoryRef,
  { backupId, path, timeoutMinutes, onlyBegun }: Wanted,
  deletion: Deletion,
): Promise<{ readonly freedBytes: bigint }> {
  const { control } = deletion;
  const { signal } = control;
  const over = new AbortController();
  const begin = (isInPlace: boolean): void => {
    signal.throwIfAborted();
    if (isInPlace && onlyBegun) throw cancelled(backupId);
    deletion.begun = true;
  };
  try {
    return await repositories.useAlone(ref, PATIENT, (repository) => {
      const watched = watchRepository(repository, {
        waitMs: WAIT_MS,
        signal,
        tell: () => undefined,
        moved: () => {
          control.moved();
        },
      });
      void endWhenIdle(control, {
        timeoutMs: timeoutMinutes * MINUTE_MS,
        isStalled: () => watched.stalledSince !== undefined,
        signal: over.signal,
        what: 'Look after the repository.',
      });
      over.signal.addEventListener('abort', () => {
        watched.close();
      });
      return orAbort(deleteBackup(watched, path, backupId, begin), signal);
    });
  } catch (error) {
    if (!deletion.begun || !(error instanceof HoldfastError)) throw error;
    const { reason, message, metadata } = error;
    throw new HoldfastError(
      reason,
      `${message} The backup may be out of its place already; delete it again, which ends what was begun.`,
      { metadata, cause: error },
    );
  } finally {
    over.abort();
  }
}
