import { setTimeout as sleep } from 'node:timers/promises';
import pMap from 'p-map';
import { MIB } from '@holdfast/common/bytes.ts';
import { AddHostRequest } from '@holdfast/proto/holdfast/v1/host.ts';
import { ListOperationsRequest } from '@holdfast/proto/holdfast/v1/operation.ts';
import { AddRepositoryRequest } from '@holdfast/proto/holdfast/v1/repository.ts';
import type { Client } from '../../harness/client.ts';
import { until } from '../../lab/deadline.ts';
import { median } from '../measure.ts';
import { percentile } from '../percentile.ts';
import { countLost, watchToEnd, type Arrivals } from './arrivals.ts';
import { startController, usage, type BenchController } from './controller.ts';
import { startGenerator } from './generator.ts';

const WATCHERS = 100;
/** So many calls at a time while all backups begin, and while all are looked at afterwards. */
const CALLERS = 50;
const DRAIN_MS = 300_000;

export interface Fleet {
  readonly agents: number;
  readonly backupsPerAgent: number;
  readonly seconds: number;
}

export interface FleetFigures {
  /** From an agent's event to a watcher, milliseconds. */
  readonly eventP50Ms: number;
  readonly eventP99Ms: number;
  readonly eventMaxMs: number;
  readonly samples: number;
  /** Of the controller, at most. */
  readonly rssMib: number;
  /** Between the second and the last fifth of the time. */
  readonly rssGrowthMib: number;
  /** Of one core each. */
  readonly controllerCpuPercent: number;
  readonly generatorCpuPercent: number;
  /** Of the controller for each event of any kind. */
  readonly cpuMicrosecondsPerEvent: number;
  /** By how much the generator itself was late, at most. */
  readonly generatorLateMs: number;
  /** State events that agents told and that a watcher did not see, or not in their order: of all operations. */
  readonly lost: number;
  readonly backupsPerSecond: number;
}

/** Lets every agent's backups tell one progress event a second, through one controller on SQLite, to 100 watchers. */
export async function measureFleet(fleet: Fleet): Promise<FleetFigures> {
  const backups = fleet.agents * fleet.backupsPerAgent;
  await using controller = await startController('sqlite');
  await using generator = await startGenerator(controller.directory, {
    agents: fleet.agents,
    domains: backups,
  });
  const { client } = controller;
  await addHosts(client, generator.addresses);
  const began = performance.now();
  const ids = await startAll(client, fleet);
  const backupsPerSecond = (ids.length * 1000) / (performance.now() - began);

  const latencies: number[] = [];
  let measuring = false;
  const every = Math.max(1, Math.floor(ids.length / WATCHERS));
  const watched = ids.filter((_id, index) => index % every === 0).slice(0, WATCHERS);
  const arriving = watched.map((id) =>
    watchToEnd(client, id, ({ time }) => {
      if (measuring) latencies.push(Date.now() - (time?.getTime() ?? NaN));
    }),
  );
  // What began together settles first.
  await sleep(5_000);
  const { events: eventsBefore } = await generator.count();
  measuring = true;
  const before = await cpu(controller, generator.cpuSeconds);
  const rss: number[] = [];
  const started = performance.now();
  while (performance.now() - started < fleet.seconds * 1000) {
    rss.push((await usage(controller.pid())).rssBytes / MIB);
    await sleep(1_000);
  }
  const seconds = (performance.now() - started) / 1000;
  const after = await cpu(controller, generator.cpuSeconds);
  measuring = false;
  const { events, lateMs } = await generator.count();

  generator.finish();
  const live = await Promise.all(arriving);
  await until('All operations end', DRAIN_MS, async () => {
    const { operations } = await list(client, { activeOnly: true, pageSize: 1 });
    return operations.length === 0 || undefined;
  });
  const { told } = await generator.count();
  const lost = lostOf(watched, live, told) + (await lostInAll(client, ids, told));
  // Or it would miss the agents, and say so of each.
  await controller.stop();
  const fifth = Math.max(1, Math.floor(rss.length / 5));
  const controllerCpu = after.controller - before.controller;
  return {
    eventP50Ms: percentile(latencies, 50),
    eventP99Ms: percentile(latencies, 99),
    eventMaxMs: percentile(latencies, 100),
    samples: latencies.length,
    rssMib: Math.max(...rss),
    rssGrowthMib: median(rss.slice(-fifth)) - median(rss.slice(fifth, 2 * fifth)),
    controllerCpuPercent: (controllerCpu / seconds) * 100,
    generatorCpuPercent: ((after.generator - before.generator) / seconds) * 100,
    cpuMicrosecondsPerEvent: (controllerCpu * 1e6) / (events - eventsBefore),
    generatorLateMs: lateMs,
    lost,
    backupsPerSecond,
  };
}

type Told = Readonly<Record<string, readonly string[]>>;

function lostOf(ids: readonly string[], arrivals: readonly Arrivals[], told: Told): number {
  return ids.reduce(
    (sum, id, index) => sum + countLost(told[id] ?? [], arrivals[index] ?? { marks: [], gaps: 0 }),
    0,
  );
}

/** Watches every operation from its first event on, as one who comes late does. */
async function lostInAll(client: Client, ids: readonly string[], told: Told): Promise<number> {
  const arrivals = await pMap(ids, (id) => watchToEnd(client, id), { concurrency: CALLERS });
  return lostOf(ids, arrivals, told);
}

async function addHosts(client: Client, addresses: readonly string[]): Promise<void> {
  const { zones, hosts, repositories } = client;
  await client.call(zones.createZone.bind(zones), { name: 'z0' });
  const add = (address: string, index: number) =>
    client.call(
      hosts.addHost.bind(hosts),
      AddHostRequest.fromPartial({ zone: 'z0', name: `h${index}`, address }),
    );
  await pMap(addresses, add, { concurrency: CALLERS });
  const repository = AddRepositoryRequest.fromPartial({ zone: 'z0', name: 'r0', type: 1, path: '/srv/r0' });
  await client.call(repositories.addRepository.bind(repositories), repository);
}

/** @returns the ids of the operations */
async function startAll(client: Client, { agents, backupsPerAgent }: Fleet): Promise<string[]> {
  const indices = Array.from({ length: agents * backupsPerAgent }, (_, index) => index);
  const start = async (index: number): Promise<string> =>
    (await client.startBackup({ zone: 'z0', domain: `domain-${index}`, host: `h${index % agents}` })).id;
  return await pMap(indices, start, { concurrency: CALLERS });
}

async function list(client: Client, query: Partial<ListOperationsRequest>) {
  const { operations } = client;
  return await client.call(
    operations.listOperations.bind(operations),
    ListOperationsRequest.fromPartial(query),
  );
}

async function cpu(controller: BenchController, generator: () => Promise<number>) {
  return { controller: (await usage(controller.pid())).cpuSeconds, generator: await generator() };
}
