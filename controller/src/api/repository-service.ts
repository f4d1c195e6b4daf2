import { unary } from '@holdfast/common/call.ts';
import { HoldfastError } from '@holdfast/common/errors.ts';
import type { Logger } from '@holdfast/common/logger.ts';
import type { Service } from '@holdfast/common/server.ts';
import {
  RepositoryServiceService,
  type RepositoryServiceServer,
} from '@holdfast/proto/holdfast/v1/repository.ts';
import type { Repositories } from '../fleet/repositories.ts';

/** Of a repository that does not answer. */
const NO_SPACE = { sizeBytes: 0n, freeBytes: 0n };

export function repositoryService(parts: { repositories: Repositories; logger: Logger }): Service {
  const { repositories, logger } = parts;
  const implementation: RepositoryServiceServer = {
    addRepository: unary(logger, async (request, { correlationId, logger: log }) => {
      const repository = await repositories.add(request, correlationId);
      log.info('repository added', { repository: repository.name, zone: repository.zone });
      return { repository };
    }),
    listRepositories: unary(logger, async ({ zone }) => ({ repositories: await repositories.list(zone) })),
    getRepository: unary(logger, async ({ name }, { correlationId }) => {
      const { sizeBytes, freeBytes } = await repositories
        .stats(await repositories.find(name), correlationId)
        .catch((error: unknown) => {
          if (error instanceof HoldfastError && error.reason === 'REPOSITORY_STALLED') return NO_SPACE;
          throw error;
        });
      // Again, since asking has changed what is known of its health.
      return { repository: await repositories.find(name), sizeBytes, freeBytes };
    }),
    removeRepository: unary(logger, async ({ name }, { logger: log }) => {
      await repositories.remove(name);
      log.info('repository removed', { repository: name });
      return {};
    }),
  };
  return { name: 'holdfast.v1.RepositoryService', definition: RepositoryServiceService, implementation };
}
