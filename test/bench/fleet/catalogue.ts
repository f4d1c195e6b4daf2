import { randomBytes, randomUUID } from 'node:crypto';
import { ListBackupsRequest } from '@holdfast/proto/holdfast/v1/backup.ts';
import { Manifest } from '@holdfast/proto/holdfast/v1/manifest.ts';
import { AddRepositoryRequest } from '@holdfast/proto/holdfast/v1/repository.ts';
import { percentile } from '../percentile.ts';
import { startController, type BenchController } from './controller.ts';
import { startGenerator } from './generator.ts';

const DOMAINS = 10_000;
const PAGE = 1_000;
const DAMAGED_EVERY = 1_009;
/** Backups that are begun at each step, of which the first ones do not count: they compile what they run. */
const TAKEN = 220;
const NOT_COUNTED = 20;
/** How often all is added up at each step. */
const SUMS = 5;

/** What a catalogue of so many backups costs its callers. */
export interface CatalogueFigures {
  readonly backups: number;
  /** Of any page: all of the whole catalogue, in pages of 1000 and 100, and by each filter. */
  readonly listPageP99Ms: number;
  readonly listPageP50Ms: number;
  readonly takeBackupP99Ms: number;
  /** Of the sums of all zones, the median. */
  readonly zoneStatisticsMs: number;
}

/** Fills a catalogue step by step, and measures at each step. */
export async function measureCatalogue(
  kind: 'sqlite' | 'postgres',
  steps: readonly number[],
): Promise<readonly CatalogueFigures[]> {
  await using controller = await startController(kind);
  await using generator = await startGenerator(controller.directory, { agents: 1, domains: DOMAINS });
  const { client } = controller;
  const { zones, hosts, repositories } = client;
  await client.call(zones.createZone.bind(zones), { name: 'z0' });
  for (let zone = 1; zone < 10; zone += 1) {
    await client.call(zones.createZone.bind(zones), { name: `z${zone}` });
  }
  const [address = ''] = generator.addresses;
  await client.call(hosts.addHost.bind(hosts), { zone: 'z0', name: 'h0', address, labels: {} });
  const repository = AddRepositoryRequest.fromPartial({ zone: 'z0', name: 'r0', type: 1, path: '/srv/r0' });
  await client.call(repositories.addRepository.bind(repositories), repository);

  const figures: CatalogueFigures[] = [];
  let filled = 0;
  for (const backups of steps) {
    await controller.stop();
    await controller.execute(fill(kind, filled, backups));
    // As autovacuum does by itself, within a minute of so many rows (autovacuum_vacuum_insert_scale_factor).
    if (kind === 'postgres') await controller.execute('vacuum analyze backups');
    filled = backups;
    await controller.start();
    const pages = await listPages(controller);
    figures.push({
      backups,
      listPageP99Ms: percentile(pages, 99),
      listPageP50Ms: percentile(pages, 50),
      takeBackupP99Ms: percentile(await takeBackups(controller, figures.length * TAKEN), 99),
      zoneStatisticsMs: percentile(await addUp(controller), 50),
    });
  }
  return figures;
}

/** SQL that enters the backups from a number on, over three years, in ten zones, of ten thousand domains. */
function fill(kind: 'sqlite' | 'postgres', from: number, to: number): string {
  const manifest = Buffer.from(Manifest.encode(exampleManifest()).finish()).toString('hex');
  const sqlite = kind === 'sqlite';
  const hex = (value: string, digits: number): string =>
    sqlite ? `printf('%0${digits}x', ${value})` : `lpad(to_hex(${value}), ${digits}, '0')`;
  const uuid = (value: string): string => `${hex(value, 8)} || '-0000-4000-8000-' || ${hex(value, 12)}`;
  const time = sqlite
    ? `strftime('%Y-%m-%dT%H:%M:%S.000Z', 1700000000 + n * 90, 'unixepoch')`
    : `to_char(to_timestamp(1700000000 + n * 90) at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS".000Z"')`;
  const numbers = sqlite
    ? `(with recursive numbers(n) as (select ${from} union all select n + 1 from numbers where n + 1 < ${to}) select n from numbers)`
    : `(select n::integer from generate_series(${from}, ${to - 1}) as n) as numbers`;
  const damaged = (value: string): string => `case when n % ${DAMAGED_EVERY} = 0 then '${value}' end`;
  return `insert into backups (id, zone, host, repository, path, domain_uuid, domain_name, snapshot_time, virtual_size_bytes,
      data_bytes, stored_bytes, transferred_bytes, compressed, encrypted, quiesced, manifest_message, manifest_sha256,
      damage_time, damage_level, damage_operation, damage_text)
    select ${uuid('n')}, 'z' || (n % 10), 'h0', 'r0', 'a/path/' || n, ${uuid(`n % ${DOMAINS}`)},
      'domain-' || (n % ${DOMAINS}), ${time}, 2147483648, 1073741824, 536870912, 536870912, 1, 0, 1,
      ${sqlite ? `x'${manifest}'` : `'\\x${manifest}'::bytea`}, '${'ab'.repeat(32)}',
      ${damaged('2026-11-25T02:00:00.000Z')}, ${damaged('content')}, ${damaged('')}, ${damaged('vda is damaged.')} from ${numbers}`;
}

/** As long as that of a backup of two disks is. */
function exampleManifest(): Manifest {
  const sha256 = randomBytes(32).toString('hex');
  const stages = ['prepare', 'quiesce', 'blockjob', 'convert', 'encrypt', 'digest', 'check'];
  return Manifest.fromPartial({
    ...{ version: 1, backupId: randomUUID(), zone: 'z0', host: 'h0', operationId: randomUUID() },
    ...{ domainUuid: randomUUID(), domainName: 'domain-1234', domainRunning: true, snapshotTime: new Date() },
    disks: ['vda', 'vdb'].map((target) => ({
      ...{ target, file: `${target}.qcow2`, layout: 'qcow2', compression: 'zstd', sourceFormat: 'qcow2' },
      ...{ source: `/var/lib/libvirt/images/domain-1234-${target}.qcow2`, virtualSizeBytes: 1n << 30n },
      storedDigests: { file: `${target}.stored.sha256`, sha256, chunkBytes: 1n << 22n },
    })),
    ...{ domainXmlFile: 'domain.xml', domainXmlSha256: sha256, consistency: { quiesced: true } },
    toolVersions: { holdfast: '1.0.0', qemu: '7.2.22', libvirt: '9.0.0' },
    stages: stages.map((stage) => ({
      stage,
      elapsedMs: 9_999n,
      inputBytes: 1n << 29n,
      outputBytes: 1n << 28n,
    })),
    interfaces: [{ target: 'vnet0', type: 'network', source: 'default', model: 'virtio' }],
    ...{ transport: 'pull', transportReason: 'The domain runs, and there is scratch space on its host.' },
  });
}

/** How long each page took, in milliseconds. */
async function listPages({ client }: BenchController): Promise<number[]> {
  const { backups } = client;
  const took: number[] = [];
  const list = async (query: Partial<ListBackupsRequest>) => {
    const started = performance.now();
    const request = ListBackupsRequest.fromPartial(query);
    const answer = await client.call(backups.listBackups.bind(backups), request);
    took.push(performance.now() - started);
    return answer;
  };
  const tokens: string[] = [];
  // Not counted: the first calls compile what they run.
  for (let warm = 0; warm < 20; warm += 1) await list({ pageSize: PAGE });
  took.length = 0;
  for (let pageToken = ''; ;) {
    const { nextPageToken } = await list({ pageSize: PAGE, pageToken });
    if (nextPageToken === '') break;
    tokens.push((pageToken = nextPageToken));
  }
  for (const [index, pageToken] of tokens.entries()) {
    const zone = `z${index % 10}`;
    const domain = `domain-${(index * 37) % DOMAINS}`;
    for (const filter of [{}, { zone }, { damaged: true }, { zone, damaged: true }]) {
      await list({ pageSize: 100, pageToken, ...filter });
    }
    await list({ pageSize: 100, domain, pageToken: index % 2 === 0 ? '' : pageToken });
    await list({ pageSize: 100, domain, zone });
  }
  return took;
}

/** How long it took each time to add up all zones, in milliseconds. */
async function addUp({ client }: BenchController): Promise<number[]> {
  const { statistics } = client;
  const took: number[] = [];
  for (let index = 0; index < SUMS; index += 1) {
    const started = performance.now();
    await client.call(statistics.listZoneStatistics.bind(statistics), { zone: '' });
    took.push(performance.now() - started);
  }
  return took;
}

/** How long it took each time until a backup was accepted, in milliseconds. @param first the number of the first domain */
async function takeBackups({ client }: BenchController, first: number): Promise<number[]> {
  const took: number[] = [];
  for (let index = 0; index < TAKEN; index += 1) {
    const started = performance.now();
    await client.startBackup({ zone: 'z0', domain: `domain-${first + index}`, host: 'h0' });
    if (index >= NOT_COUNTED) took.push(performance.now() - started);
  }
  return took;
}
