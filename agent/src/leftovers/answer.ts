import { toStatus } from '@holdfast/common/errors.ts';
import type {
  FindLeftoversResponse,
  RemoveLeftoversRequest,
  RepositoryRef,
} from '@holdfast/proto/holdfast/agent/v1/agent.ts';
import type { Leftover } from '@holdfast/proto/holdfast/v1/leftover.ts';
import type { Repositories } from '../repository/repositories.ts';
import type { Found, LookParts } from './found.ts';
import { leftInRepository, removeFromRepository } from './inRepository.ts';
import { isSame, leftOnHost, removeFromHost } from './onHost.ts';

/** Answers a controller that asks for leftovers. */
export interface Leftovers {
  find(repository: RepositoryRef | undefined): Promise<FindLeftoversResponse>;
  remove(
    request: Pick<RemoveLeftoversRequest, 'leftovers' | 'repositories'>,
    repository: RepositoryRef | undefined,
  ): Promise<{ readonly leftovers: readonly Leftover[] }>;
}

export function leftoversOf(
  parts: Omit<LookParts, 'credentialsOf'> & {
    readonly hostName: string;
    readonly repositories: Repositories;
  },
): Leftovers {
  const toWire = ({ kind, name, jobId, state, reason }: Found): Leftover => {
    const place = { host: parts.hostName, repository: '' };
    return { kind, ...place, name, jobId, backupId: '', state, reason, changeTime: undefined };
  };
  return {
    find: async (ref) => {
      if (ref !== undefined) {
        const look = parts.repositories.use(ref, (repository) => leftInRepository(repository, Date.now()));
        return { leftovers: await look, busyJobIds: [], problems: [] };
      }
      const look = { ...parts, credentialsOf: () => undefined };
      const { found, busyJobIds, problems } = await leftOnHost(look);
      return { leftovers: found.map(toWire), busyJobIds, problems: problems.map(toStatus) };
    },
    remove: async ({ leftovers, repositories }, ref) => {
      if (ref !== undefined) {
        const removed = parts.repositories.use(ref, (repository) =>
          removeFromRepository(repository, leftovers, Date.now()),
        );
        return { leftovers: await removed };
      }
      const credentialsOf: LookParts['credentialsOf'] = (name) =>
        repositories.find((each) => each.name === name)?.credentials;
      const look = { ...parts, credentialsOf };
      const removed = await removeFromHost(look, (found) => leftovers.some((each) => isSame(found, each)));
      return { leftovers: removed.map(toWire) };
    },
  };
}
