import { randomUUID } from 'node:crypto';
import { Manifest } from '@holdfast/proto/holdfast/v1/manifest.ts';
import { AddRepositoryRequest } from '@holdfast/proto/holdfast/v1/repository.ts';
import { percentile } from '../percentile.ts';
import { startController, type BenchController } from './controller.ts';
import { startGenerator } from './generator.ts';

const DOMAINS = 10_000;
const PAGE = 1_000;

/** What a catalogue of so many backups costs its callers. */
export interface CatalogueFigures {
  readonly backups: number;
  /** Of any page: all of the whole catalogue, in pages of 1000 and 100, and by zone and by domain. */
  readonly listPageP99Ms: number;
  readonly listPageP50Ms: number;
  readonly takeBackupP99Ms: number;
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
    filled = backups;
    await controller.start();
    const pages = await listPages(controller);
    figures.push({
      backups,
      listPageP99Ms: percentile(pages, 99),
      listPageP50Ms: percentile(pages, 50),
      takeBackupP99Ms: percentile(await takeBackups(controller, backups), 99),
    });
  }
  return figures;
}

/** SQL that enters the backups from a number on, over three years, in ten zones, of ten thousand domains. */
function fill(kind: 'sqlite' | 'postgres', from: number, to: number): string {
  const manifest = Buffer.from(
    Manifest.encode(
      Manifest.fromPartial({
        ...{ version: 1, domainName: 'domain-1234', domainUuid: randomUUID() },
        disks: ['vda', 'vdb'].map((target) => ({
          target,
          virtualSizeBytes: 1n << 30n,
          fileName: `${target}.qcow2`,
        })),
      }),
    ).finish(),
  ).toString('hex');
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
  return `insert into backups (id, zone, host, repository, path, domain_uuid, domain_name, snapshot_time, virtual_size_bytes,
      data_bytes, stored_bytes, transferred_bytes, compressed, encrypted, quiesced, manifest_message, manifest_sha256)
    select ${uuid('n')}, 'z' || (n % 10), 'h0', 'r0', 'a/path/' || n, ${uuid(`n % ${DOMAINS}`)},
      'domain-' || (n % ${DOMAINS}), ${time}, 2147483648, 1073741824, 536870912, 536870912, 1, 0, 1,
      ${sqlite ? `x'${manifest}'` : `'\\x${manifest}'::bytea`}, '${'ab'.repeat(32)}' from ${numbers};
    ${sqlite ? '' : 'analyze backups;'}`;
}

/** How long each page took, in milliseconds. */
async function listPages({ client }: BenchController): Promise<number[]> {
  const { backups } = client;
  const took: number[] = [];
  const list = async (query: { zone?: string; domain?: string; pageSize: number; pageToken?: string }) => {
    const started = performance.now();
    const answer = await client.call(backups.listBackups.bind(backups), {
      ...{ zone: '', domain: '', pageToken: '', damaged: false },
      ...query,
    });
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
    await list({ pageSize: 100, pageToken });
    await list({ pageSize: 100, pageToken, zone: `z${index % 10}` });
    await list({
      pageSize: 100,
      domain: `domain-${(index * 37) % DOMAINS}`,
      pageToken: index % 2 ? '' : pageToken,
    });
  }
  return took;
}

/** How long it took each time until a backup was accepted, in milliseconds. */
async function takeBackups({ client }: BenchController, first: number): Promise<number[]> {
  const took: number[] = [];
  for (let index = 0; index < 120; index += 1) {
    const started = performance.now();
    await client.startBackup({ zone: 'z0', domain: `domain-${(first + index) % DOMAINS}`, host: 'h0' });
    // The first ones compile what they run.
    if (index >= 20) took.push(performance.now() - started);
  }
  return took;
}
