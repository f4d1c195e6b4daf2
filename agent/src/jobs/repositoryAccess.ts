import type { RepositoryCredentials } from '@holdfast/proto/holdfast/v1/repository.ts';
import { openRepository, placeOf, type JournaledRef, type Repository } from '../repository/repository.ts';
import type { UndoLog } from './undo.ts';

/** How a job comes to its repository. */
export interface RepositoryAccess {
  /** Opens a repository; whoever does sees to its being unmounted. */
  readonly open: (ref: JournaledRef) => Repository;
  /** Opens repositories that are unmounted when the log is undone. */
  readonly forJob: (undo: UndoLog) => (ref: JournaledRef) => Promise<Repository>;
}

/** @param credentials those with which the job was started: a journal has no password */
export function repositoryAccess(
  mountsDirectory: string,
  credentials: RepositoryCredentials | undefined,
): RepositoryAccess {
  const open: RepositoryAccess['open'] = (ref) =>
    openRepository(
      ref.credentials?.password === '' ? { ...ref, credentials: credentials ?? ref.credentials } : ref,
      { mountsDirectory },
    );
  return {
    open,
    forJob: (undo) => async (ref) => {
      const place = placeOf(ref, mountsDirectory);
      if (place !== undefined) await undo.promise({ kind: 'unmount', directory: place.directory });
      return open(ref);
    },
  };
}
