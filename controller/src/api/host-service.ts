import { unary } from '@holdfast/common/call.ts';
import type { Logger } from '@holdfast/common/logger.ts';
import type { Service } from '@holdfast/common/server.ts';
import { HostServiceService, type HostServiceServer } from '@holdfast/proto/holdfast/v1/host.ts';
import type { Hosts } from '../fleet/hosts.ts';

export function hostService({ hosts, logger }: { hosts: Hosts; logger: Logger }): Service {
  const implementation: HostServiceServer = {
    addHost: unary(logger, async (request, { correlationId, logger: log }) => {
      const host = await hosts.add(request, correlationId);
      log.info('host added', { host: host.name, zone: host.zone, address: host.address });
      return { host };
    }),
    listHosts: unary(logger, async ({ zone }) => ({ hosts: await hosts.list(zone) })),
    getHost: unary(logger, ({ name }, { correlationId }) => hosts.ask(name, correlationId)),
    removeHost: unary(logger, async ({ name }, { logger: log }) => {
      await hosts.remove(name);
      log.info('host removed', { host: name });
      return {};
    }),
  };
  return { name: 'holdfast.v1.HostService', definition: HostServiceService, implementation };
}
