import { RepositoryRef } from '@holdfast/proto/holdfast/agent/v1/agent.ts';
import { openRepository, type OpenOptions, type Repository } from '../repository/repository.ts';

/** A repository in a directory that is there already. */
export function openLocal(path: string, name = 'r', options: Partial<OpenOptions> = {}): Repository {
  const ref = RepositoryRef.fromPartial({ name, path });
  return openRepository(ref, { mountsDirectory: '/nowhere', ...options });
}
