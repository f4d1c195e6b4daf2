import type { RepositoryRef } from '@holdfast/proto/holdfast/agent/v1/agent.ts';
import { openRepository, type Repository } from './repository.ts';

/** The repositories that the agent itself talks to, one helper process for each path. */
export interface Repositories {
  get(ref: RepositoryRef): Repository;
  close(): void;
}

export function openRepositories(): Repositories {
  const open = new Map<string, Repository>();
  return {
    get: (ref) => {
      const known = open.get(ref.path);
      if (known !== undefined) return known;
      const made = openRepository(ref);
      open.set(ref.path, made);
      return made;
    },
    close: () => {
      for (const repository of open.values()) repository.close();
      open.clear();
    },
  };
}
