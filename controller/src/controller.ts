import type { Address } from '@holdfast/common/address.ts';
import { DEFAULT_FRONT, openFront, type FrontOptions } from '@holdfast/common/front.ts';
import type { Logger } from '@holdfast/common/logger.ts';
import type { Secret } from '@holdfast/common/secret.ts';
import type { RunningServer } from '@holdfast/common/server.ts';
import { createAdmission } from './admission/admission.ts';
import { createBudget } from './admission/budget.ts';
import { controllerAccess } from './api/access.ts';
import { backupService } from './api/backup-service.ts';
import { hostService } from './api/host-service.ts';
import { leftoverService } from './api/leftover-service.ts';
import { keyService } from './api/key-service.ts';
import { operationService } from './api/operation-service.ts';
import { repositoryService } from './api/repository-service.ts';
import { statisticsService } from './api/statistics-service.ts';
import { zoneService } from './api/zone-service.ts';
import { createCatalog } from './catalog/backups.ts';
import { createStatistics } from './catalog/statistics.ts';
import { createAgents } from './fleet/agents.ts';
import { createHostHealth, HEARTBEAT_MS } from './fleet/host-health.ts';
import { createHosts } from './fleet/hosts.ts';
import { createRepositories } from './fleet/repositories.ts';
import { createKeys, DEFAULT_SCRYPT_WORK_FACTOR } from './keys/keys.ts';
import { createDrivers, type Drivers } from './operations/drivers.ts';
import { createLeftovers } from './leftovers/leftovers.ts';
import { createScrubber, SCRUB_LOOK_MS, type Scrubber } from './scrub/scrubber.ts';
import { createElsewhere, type Elsewhere } from './operations/elsewhere.ts';
import { createJournal, type Journal } from './operations/journal.ts';
import { createLeadership } from './operations/leadership.ts';
import { createLive } from './operations/live.ts';
import { createSubmit } from './operations/submit.ts';
import { createKeyUpdates, type KeyUpdates } from './operations/update-keys.ts';
import { openStore, type StatePlace } from './store/store.ts';
import { createSettings } from './zones/settings.ts';
import { createZones } from './zones/zones.ts';

export interface ControllerOptions {
  /** Where to listen: one or more unix sockets or ports; without certificates, ports of loopback. */
  readonly listen: readonly Address[];
  /** Certificates, limits and metrics; without it, only this host can call. */
  readonly front?: FrontOptions;
  /** Where the state lies; made when it is not there. */
  readonly state: StatePlace;
  /** 32 bytes in hexadecimal, under which everything secret in the state is sealed. */
  readonly masterKey: Secret;
  readonly logger: Logger;
  readonly now?: () => Date;
  /** Base-2 logarithm of scrypt's cost for what lies under a passphrase; age's 18 when left out. */
  readonly scryptWorkFactor?: number;
  /** How often each host is asked whether it is there; ten seconds when left out. */
  readonly heartbeatMs?: number;
  /** How often it is looked whether backups are due to be scrubbed; a minute when left out. */
  readonly scrubLookMs?: number;
}

export interface RunningController {
  /** Where it listens, with the real port where 0 was asked for. */
  readonly addresses: readonly Address[];
  /** Stops: watchers are told, agents keep their jobs, the state is closed. May be called twice. */
  close(): Promise<void>;
}

/**
 * Starts a controller, and takes up again what the one before it left running.
 *
 * @throws HoldfastError as openStore; IN_USE when an address is taken, INVALID_REQUEST for one that other machines could
 *   reach without certificates, CERTIFICATE_UNUSABLE
 */
export async function startController(options: ControllerOptions): Promise<RunningController> {
  const { logger, now = () => new Date() } = options;
  const front = await openFront(options.front ?? DEFAULT_FRONT, logger);
  const store = await openStore(options.state, options.masterKey).catch(async (error: unknown) => {
    await front.close();
    throw error;
  });
  const agents = createAgents(front.certificates);
  const stop = new AbortController();

  const zones = createZones({ store, now });
  const settings = createSettings({
    ...{ store, zones, now },
    changed: (trx, zone, changed) =>
      changed.some((key) => key.startsWith('nas.backup.encryption.'))
        ? updates.settingsChanged(trx, zone)
        : Promise.resolve(),
  });
  const health = createHostHealth({ agents, now, logger, heartbeatMs: options.heartbeatMs ?? HEARTBEAT_MS });
  const hosts = createHosts({ store, zones, agents, health, now });
  const repositories = createRepositories({ store, zones, hosts, agents, now, stopping: stop.signal });
  const { scryptWorkFactor = DEFAULT_SCRYPT_WORK_FACTOR } = options;
  const keys = createKeys({ store, settings, now, scryptWorkFactor });
  const catalog = createCatalog({ store });
  const statistics = createStatistics({ store });
  const live = createLive();
  const leadership = createLeadership({
    store,
    logger,
    onTaken: (ids) => {
      for (const id of ids) drivers.drive(id);
    },
    onLost: () => {
      drivers.dropAll();
    },
  });
  const journal = createJournal({
    store,
    live,
    leadership,
    now,
    onProgress: (id, event) => {
      elsewhere.tellProgress(id, event);
    },
  });
  const tell: Journal['progress'] = (id, event) => {
    journal.progress(id, event);
  };
  const admission = createAdmission({ store, settings, hosts, live, tell, now, logger });
  const budget = createBudget({ store, settings, health, live, tell, now, logger });
  const capacityChanged = (): void => {
    admission.changed();
    budget.changed();
  };
  health.onChange(capacityChanged);
  const drivers: Drivers = createDrivers({
    store,
    settings,
    journal,
    hosts,
    agents,
    repositories,
    keys,
    admission,
    budget,
    onLeft: (id) => {
      scrubber.left(id);
    },
    now,
    logger,
  });
  const elsewhere: Elsewhere = createElsewhere({ store, live, drivers, logger });
  const submit = createSubmit({ store, drivers, leadership, now });
  const updates: KeyUpdates = createKeyUpdates({ store, settings, submit });

  const scrubber: Scrubber = createScrubber({
    ...{
      store,
      catalog,
      hosts,
      agents,
      repositories,
      keys,
      settings,
      submit,
      journal,
      elsewhere,
      now,
      logger,
    },
    lookEveryMs: options.scrubLookMs ?? SCRUB_LOOK_MS,
    count: front.metrics.counter(
      'holdfast_scrubs_total',
      'Scrubs of backups that ended, by outcome.',
      'outcome',
    ),
  });

  const leftovers = createLeftovers({ store, hosts, agents, repositories, now });

  const fleet = { zones, settings, hosts, agents, repositories };
  const services = [
    backupService({ store, ...fleet, keys, catalog, submit, journal, elsewhere, now, logger }),
    operationService({ journal, live, elsewhere, hosts, agents, now, stopping: stop.signal, logger }),
    zoneService({
      ...{ zones, settings, logger },
      onChange: () => {
        updates.begin();
        capacityChanged();
        scrubber.changed();
      },
    }),
    hostService({ hosts, onChange: capacityChanged, logger }),
    repositoryService({ store, settings, repositories, keys, now, stopping: stop.signal, logger }),
    keyService({ store, zones, settings, repositories, updates, submit, now, logger }),
    statisticsService({ store, settings, statistics, zones, repositories, now, logger }),
    leftoverService({ leftovers, logger }),
  ];

  let servers: readonly RunningServer[] = [];
  const close = async (): Promise<void> => {
    for (const server of servers) server.retire();
    stop.abort();
    admission.close();
    budget.close();
    await Promise.all(servers.map((server) => server.close()));
    const stopped = Promise.all([drivers.close(), health.close(), scrubber.close()]);
    // Ends what they wait for at agents.
    agents.close();
    await stopped;
    elsewhere.close();
    await leadership.end();
    await store.close();
    await front.close();
  };
  try {
    await leadership.begin();
    health.start(() => hosts.list(''));
    servers = await front.serve(
      options.listen,
      services,
      controllerAccess({ journal, catalog, hosts, repositories }),
    );
    await drivers.settle();
    await updates.lookOver();
    scrubber.start();
  } catch (error) {
    await close();
    throw error;
  }
  logger.info('controller started', { name: leadership.name, store: options.state.kind });
  let closing: Promise<void> | undefined;
  return { addresses: servers.map((server) => server.address), close: () => (closing ??= close()) };
}
