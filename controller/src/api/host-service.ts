import { unary } from '@holdfast/common/call.ts';
import type { Logger } from '@holdfast/common/logger.ts';
import type { Service } from '@holdfast/common/server.ts';
import { HostServiceService, type HostServiceServer } from '@holdfast/proto/holdfast/v1/host.ts';
import type { Hosts } from '../fleet/hosts.ts';

/** @param parts.onChange told after a host may take work that it could not before */
export function hostService(parts: {
  readonly hosts: Hosts;
  readonly onChange: () => void;
  readonly logger: Logger;
}): Service {
  const { hosts, onChange, logger } = parts;
  const implementation: HostServiceServer = {
    addHost: unary(logger, async (request, { correlationId, logger: log }) => {
      const host = await hosts.add(request, correlationId);
      log.info('host added', { host: host.name, zone: host.zone, address: host.address });
      return { host };
    }),
    listHosts: unary(logger, async ({ zone, labels }) => ({
      hosts: await hosts.withOperations(await hosts.list(zone, labels)),
    })),
    setHostLabels: unary(logger, async ({ name, labels, remove }, { logger: log }) => {
      const host = await hosts.setLabels(name, labels, remove);
      log.info('host labelled', { host: name, labels: host.labels });
      return { host };
    }),
    drainHost: unary(logger, async ({ name }, { logger: log }) => {
      const host = await hosts.setDrained(name, true);
      log.info('host drained', { host: name, running: host.runningOperations });
      return { host };
    }),
    undrainHost: unary(logger, async ({ name }, { logger: log }) => {
      const host = await hosts.setDrained(name, false);
      log.info('host undrained', { host: name });
      onChange();
      return { host };
    }),
    getHost: unary(logger, ({ name }, { correlationId }) => hosts.ask(name, correlationId)),
    removeHost: unary(logger, async ({ name }, { logger: log }) => {
      await hosts.remove(name);
      log.info('host removed', { host: name });
      return {};
    }),
  };
  return { name: 'holdfast.v1.HostService', definition: HostServiceService, implementation };
}
