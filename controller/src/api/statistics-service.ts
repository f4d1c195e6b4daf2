import { unary } from '@holdfast/common/call.ts';
import { toStatus } from '@holdfast/common/errors.ts';
import type { Logger } from '@holdfast/common/logger.ts';
import type { Service } from '@holdfast/common/server.ts';
import {
  StatisticsServiceService,
  type RepositoryStatistics,
  type StatisticsServiceServer,
} from '@holdfast/proto/holdfast/v1/statistics.ts';
import type { Statistics } from '../catalog/statistics.ts';
import type { Repositories } from '../fleet/repositories.ts';
import { scrubStatus } from '../scrub/status.ts';
import type { Store } from '../store/store.ts';
import type { Settings } from '../zones/settings.ts';
import type { Zones } from '../zones/zones.ts';

export function statisticsService(parts: {
  store: Store;
  settings: Settings;
  statistics: Statistics;
  zones: Zones;
  repositories: Repositories;
  now: () => Date;
  logger: Logger;
}): Service {
  const { statistics, zones, repositories, logger } = parts;
  const implementation: StatisticsServiceServer = {
    listZoneStatistics: unary(logger, async ({ zone }) => {
      if (zone !== '') await zones.require(zone);
      return { zones: await statistics.ofZones(zone) };
    }),
    listDomainStatistics: unary(logger, async (request) => {
      if (request.zone !== '') await zones.require(request.zone);
      return statistics.ofDomains(request);
    }),
    listRepositoryStatistics: unary(logger, async (request, { correlationId }) => {
      if (request.zone !== '') await zones.require(request.zone);
      if (request.repository !== '') await repositories.find(request.repository);
      const found = await statistics.ofRepositories(request);
      const answered = found.map(async (each) =>
        withSpace({ ...each, scrub: await scrubStatus(parts, each) }, correlationId),
      );
      return { repositories: await Promise.all(answered) };
    }),
  };
  /** One that does not answer spoils no other. */
  const withSpace = async (
    known: Omit<RepositoryStatistics, 'space' | 'error'>,
    correlationId: string,
  ): Promise<RepositoryStatistics> => {
    try {
      const repository = await repositories.find(known.repository);
      const { sizeBytes, usedBytes, freeBytes } = await repositories.stats(repository, correlationId);
      return { ...known, space: { sizeBytes, usedBytes, freeBytes }, error: undefined };
    } catch (error) {
      return { ...known, space: undefined, error: toStatus(error) };
    }
  };
  return { name: 'holdfast.v1.StatisticsService', definition: StatisticsServiceService, implementation };
}
