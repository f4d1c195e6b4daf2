import type { RepositoryCredentials } from '@holdfast/proto/holdfast/v1/repository.ts';
import { watchRepository, type WatchedRepository, type WatchOptions } from '../repository/liveness.ts';
import {
  DEADLINES,
  openRepository,
  placeOf,
  STALLED_AFTER_MS,
  type Deadlines,
  type JournaledRef,
  type Repository,
} from '../repository/repository.ts';
import type { UndoLog } from './undo.ts';

/** How a job comes to its repository. */
export interface RepositoryAccess {
  /** Opens a repository; whoever does sees to its being unmounted. */
  readonly open: (ref: JournaledRef) => Repository;
  /** Opens repositories that are watched, and unmounted when the log is undone. */
  readonly forJob: (
    undo: UndoLog,
    watch: Pick<WatchOptions, 'waitMs' | 'signal'> & {
      readonly tell: (name: string) => WatchOptions['tell'];
      /** Told of each answer. */
      readonly moved: () => void;
    },
  ) => (ref: JournaledRef) => Promise<WatchedRepository>;
  /** Whether one of the job does not answer just now. */
  readonly isStalled: () => boolean;
  /** Closes those of the job, whatever they are busy with. */
  readonly close: () => void;
  /** Whether one that was closed is stalled, or its job was cancelled: nobody wants to wait for it then. */
  readonly isHurried: () => boolean;
}

/** Whoever cancels a job does not wait for a NAS that hangs: what is left is removed later. */
const HURRY: Deadlines = { ...DEADLINES, deadlineMs: 2_000, answerDeadlineMs: 2_000 };

/** @param credentials those with which the job was started: a journal has no password */
export function repositoryAccess(
  mountsDirectory: string,
  credentials: RepositoryCredentials | undefined,
): RepositoryAccess {
  const withPassword = (ref: JournaledRef): JournaledRef =>
    ref.credentials?.password === '' ? { ...ref, credentials: credentials ?? ref.credentials } : ref;
  const opened: WatchedRepository[] = [];
  let deadlines = DEADLINES;
  return {
    close: () => {
      for (const repository of opened) {
        if (repository.stalledSince !== undefined || repository.isCancelled()) deadlines = HURRY;
        repository.close();
      }
    },
    isStalled: () => opened.some(({ stalledSince }) => stalledSince !== undefined),
    isHurried: () => deadlines === HURRY,
    open: (ref) => openRepository(withPassword(ref), { mountsDirectory, deadlines }),
    forJob:
      (undo, { waitMs, signal, tell, moved }) =>
      async (ref) => {
        const place = placeOf(ref, mountsDirectory);
        if (place !== undefined) await undo.promise({ kind: 'unmount', directory: place.directory });
        const patient = {
          // Whether it is given up is for the watch to say, which asks all the time.
          deadlineMs: DEADLINES.deadlineMs + waitMs,
          slowDeadlineMs: DEADLINES.slowDeadlineMs + waitMs,
          answerDeadlineMs: STALLED_AFTER_MS + waitMs,
        };
        const repository = openRepository(withPassword(ref), { mountsDirectory, deadlines: patient });
        const watched = watchRepository(repository, { waitMs, signal, moved, tell: tell(ref.name) });
        opened.push(watched);
        return watched;
      },
  };
}
