import type { Logger } from '@holdfast/common/logger.ts';
import type { RepositoryRef } from '@holdfast/proto/holdfast/agent/v1/agent.ts';
import { lazyText, unmountUnused } from '../mount/unmount.ts';
import { openRepository, type Deadlines, type Repository } from './repository.ts';

/** The repositories that the agent itself talks to, one helper process for each. */
export interface Repositories {
  /** Does something on a repository. It stays open for a while, and is unmounted then unless others use it. */
  use<Result>(ref: RepositoryRef, work: (repository: Repository) => Promise<Result>): Promise<Result>;
  /** As `use`, for something that comes piece by piece. */
  useFor<Item>(
    ref: RepositoryRef,
    work: (repository: Repository) => AsyncIterable<Item>,
  ): AsyncGenerator<Item, void, undefined>;
  /** As `use`, on a mount of its own, which proves the address and the credentials. */
  useAfresh<Result>(ref: RepositoryRef, work: (repository: Repository) => Promise<Result>): Promise<Result>;
  /** As `use`, with a helper process and deadlines of its own, which end with it. */
  useAlone<Result>(
    ref: RepositoryRef,
    deadlines: Deadlines,
    work: (repository: Repository) => Promise<Result>,
  ): Promise<Result>;
  close(): Promise<void>;
}

/** Long enough for a caller who asks one thing after the other. */
const IDLE_MS = 10_000;

interface Open {
  readonly repository: Repository;
  users: number;
  idle: NodeJS.Timeout | undefined;
}

export function openRepositories(mountsDirectory: string, logger: Logger, idleMs = IDLE_MS): Repositories {
  const open = new Map<string, Open>();

  const close = async (repository: Repository): Promise<void> => {
    repository.close();
    if (repository.mount === undefined) return;
    try {
      const end = await unmountUnused(repository.mount);
      if (end === 'lazily') logger.warn(lazyText(repository.mount), { repository: repository.name });
    } catch (error) {
      // Tried again at the next start; what was asked for is done.
      logger.warn('a repository could not be unmounted', { repository: repository.name, error });
    }
  };
  const enter = (ref: RepositoryRef): Open => {
    // The password is part of it: another one must prove itself.
    const key = JSON.stringify(ref);
    const found = open.get(key) ?? {
      repository: openRepository(ref, { mountsDirectory }),
      users: 0,
      idle: undefined,
    };
    open.set(key, found);
    clearTimeout(found.idle);
    found.users++;
    return found;
  };
  const leave = (ref: RepositoryRef, used: Open): void => {
    if (--used.users > 0) return;
    used.idle = setTimeout(() => {
      open.delete(JSON.stringify(ref));
      void close(used.repository);
    }, idleMs);
    used.idle.unref();
  };

  return {
    use: async (ref, work) => {
      const used = enter(ref);
      try {
        return await work(used.repository);
      } finally {
        leave(ref, used);
      }
    },
    useFor: async function* (ref, work) {
      const used = enter(ref);
      try {
        yield* work(used.repository);
      } finally {
        leave(ref, used);
      }
    },
    useAfresh: async (ref, work) => {
      const repository = openRepository(ref, { mountsDirectory, afresh: true });
      try {
        return await work(repository);
      } finally {
        await close(repository);
      }
    },
    useAlone: async (ref, deadlines, work) => {
      const repository = openRepository(ref, { mountsDirectory, deadlines });
      try {
        return await work(repository);
      } finally {
        // Unmounting a NAS that hangs takes a while.
        void close(repository);
      }
    },
    close: async () => {
      const all = [...open.values()];
      open.clear();
      for (const { idle } of all) clearTimeout(idle);
      await Promise.all(all.map(({ repository }) => close(repository)));
    },
  };
}
