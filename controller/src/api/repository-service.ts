import { serverStream, unary } from '@holdfast/common/call.ts';
import { HoldfastError } from '@holdfast/common/errors.ts';
import type { Logger } from '@holdfast/common/logger.ts';
import type { Service } from '@holdfast/common/server.ts';
import {
  RepositoryServiceService,
  type RepositoryServiceServer,
} from '@holdfast/proto/holdfast/v1/repository.ts';
import { rescanRepository, type RescanParts } from '../catalog/rescan.ts';

/** Of a repository that does not answer. */
const NO_SPACE = { sizeBytes: 0n, freeBytes: 0n };

export function repositoryService(
  parts: RescanParts & { readonly stopping: AbortSignal; readonly logger: Logger },
): Service {
  const { repositories, stopping, logger } = parts;
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
    setRepositoryCredentials: unary(logger, async (request, { correlationId, logger: log }) => {
      const repository = await repositories.setCredentials(request.name, request.credentials, correlationId);
      log.info('repository has other credentials', { repository: repository.name, zone: repository.zone });
      return { repository };
    }),
    removeRepository: unary(logger, async ({ name }, { logger: log }) => {
      await repositories.remove(name);
      log.info('repository removed', { repository: name });
      return {};
    }),
    rescanRepository: serverStream(logger, async function* (request, { correlationId, signal, logger: log }) {
      const either = AbortSignal.any([signal, stopping]);
      const responses = rescanRepository(parts, request, { correlationId, signal: either });
      for await (const response of endingWith(stopping, responses)) {
        if (response.message?.$case === 'figures' && response.message.value.done) {
          const { folders, imported, known, others } = response.message.value;
          log.info('repository rescanned', {
            repository: request.name,
            dryRun: request.dryRun,
            folders: Number(folders),
            imported: Number(imported),
            known: Number(known),
            others: Number(others),
          });
        }
        yield response;
      }
    }),
  };
  return { name: 'holdfast.v1.RepositoryService', definition: RepositoryServiceService, implementation };
}

/** What a stream is cut off by when the service stops says so. */
async function* endingWith<Item>(stopping: AbortSignal, items: AsyncIterable<Item>): AsyncGenerator<Item> {
  try {
    yield* items;
  } catch (error) {
    if (!stopping.aborted) throw error;
    throw new HoldfastError('SHUTTING_DOWN', 'The controller is stopping. Scan the repository again later.');
  }
}
