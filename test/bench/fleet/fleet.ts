import { setTimeout as sleep } from 'node:timers/promises';
import { MIB } from '@holdfast/common/bytes.ts';
import type { WatchOperationResponse } from '@holdfast/proto/holdfast/v1/operation.ts';
import { ListOperationsRequest } from '@holdfast/proto/holdfast/v1/operation.ts';
import { AddRepositoryRequest } from '@holdfast/proto/holdfast/v1/repository.ts';
import type { Client } from '../../harness/client.ts';
import { until } from '../../lab/deadline.ts';
import { median } from '../measure.ts';
import { percentile } from '../percentile.ts';
import { startController, usage, type BenchController } from './controller.ts';
import { startGenerator } from './generator.ts';

const WATCHERS = 100;
/** So many calls at a time while all backups begin. */
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
  /** By how much the generator itself was late, at most. */
  readonly generatorLateMs: number;
  /** State events that agents told and the controller has not stored, or that a watcher did not see. */
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
  const watchers = watched.map((id) =>
    watch(client, id, (ms) => {
      if (measuring) latencies.push(ms);
    }),
  );
  // What began together settles first.
  await sleep(5_000);
  await generator.count();
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
  const { lateMs } = await generator.count();

  generator.finish();
  const gaps = await Promise.all(watchers);
  await until('All operations end', DRAIN_MS, async () => {
    const { operations } = await list(client, { activeOnly: true, pageSize: 1 });
    return operations.length === 0 || undefined;
  });
  const { sequences } = await generator.count();
  const fifth = Math.max(1, Math.floor(rss.length / 5));
  return {
    eventP50Ms: percentile(latencies, 50),
    eventP99Ms: percentile(latencies, 99),
    eventMaxMs: percentile(latencies, 100),
    samples: latencies.length,
    rssMib: Math.max(...rss),
    rssGrowthMib: median(rss.slice(-fifth)) - median(rss.slice(fifth, 2 * fifth)),
    controllerCpuPercent: ((after.controller - before.controller) / seconds) * 100,
    generatorCpuPercent: ((after.generator - before.generator) / seconds) * 100,
    generatorLateMs: lateMs,
    lost: (await notStored(client, sequences)) + gaps.reduce((sum, each) => sum + each, 0),
    backupsPerSecond,
  };
}

async function addHosts(client: Client, addresses: readonly string[]): Promise<void> {
  const { zones, hosts, repositories } = client;
  await client.call(zones.createZone.bind(zones), { name: 'z0' });
  for (const [index, address] of addresses.entries()) {
    await client.call(hosts.addHost.bind(hosts), { zone: 'z0', name: `h${index}`, address, labels: {} });
  }
  const repository = AddRepositoryRequest.fromPartial({ zone: 'z0', name: 'r0', type: 1, path: '/srv/r0' });
  await client.call(repositories.addRepository.bind(repositories), repository);
}

async function startAll(client: Client, { agents, backupsPerAgent }: Fleet): Promise<string[]> {
  const ids: string[] = [];
  let next = 0;
  const call = async (): Promise<void> => {
    while (next < agents * backupsPerAgent) {
      const index = next++;
      const host = `h${index % agents}`;
      ids.push((await client.startBackup({ zone: 'z0', domain: `domain-${index}`, host })).id);
    }
  };
  await Promise.all(Array.from({ length: CALLERS }, call));
  return ids;
}

/** Watches an operation to its end. @returns how many numbers were missing or there twice */
function watch(client: Client, operationId: string, onEvent: (ms: number) => void): Promise<number> {
  const stream = client.operations.watchOperation({ operationId, afterSequence: 0n });
  let next = 1n;
  let gaps = 0;
  return new Promise((resolve) => {
    stream.on('data', ({ event }: WatchOperationResponse) => {
      if (event === undefined) return;
      onEvent(Date.now() - (event.time?.getTime() ?? NaN));
      if (event.event?.$case === 'stageProgress') return;
      if (event.sequence !== next) gaps += 1;
      next = event.sequence + 1n;
    });
    stream.on('error', () => resolve(gaps + 1));
    stream.on('end', () => resolve(gaps));
  });
}

/** How many of the agents' events are not stored. */
async function notStored(client: Client, sequences: Readonly<Record<string, number>>): Promise<number> {
  const left = new Map(Object.entries(sequences));
  let missing = 0;
  for (let pageToken = ''; ;) {
    const { operations, nextPageToken } = await list(client, { pageSize: 1_000, pageToken });
    for (const { id, lastSequence } of operations) {
      missing += Math.max(0, (left.get(id) ?? 0) - Number(lastSequence));
      left.delete(id);
    }
    if (nextPageToken === '') break;
    pageToken = nextPageToken;
  }
  return [...left.values()].reduce((sum, each) => sum + each, missing);
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
