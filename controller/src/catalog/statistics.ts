import { sql } from 'kysely';
import { HoldfastError } from '@holdfast/common/errors.ts';
import type {
  BackupSums,
  DomainStatistics,
  RepositoryStatistics,
  ZoneStatistics,
} from '@holdfast/proto/holdfast/v1/statistics.ts';
import type { Store } from '../store/store.ts';
import { parsePageSize } from './page.ts';

/** Sums over the backups in the catalogue. The database adds them up. */
export interface Statistics {
  /** By zone, or of this zone. */
  ofZones(zone: string): Promise<ZoneStatistics[]>;
  /** By zone and domain. @throws HoldfastError INVALID_REQUEST for a bad page size or token */
  ofDomains(query: {
    readonly zone: string;
    readonly domain: string;
    readonly pageSize: number;
    readonly pageToken: string;
  }): Promise<{ readonly domains: DomainStatistics[]; readonly nextPageToken: string }>;
  /** By repository, or of this zone, or of this repository; without its space. */
  ofRepositories(query: {
    readonly zone: string;
    readonly repository: string;
  }): Promise<Pick<RepositoryStatistics, 'repository' | 'zone' | 'sums'>[]>;
}

/** As text: the sizes of many thin disks together are more than a number holds. Null over nothing. */
type Sum = string | null;

/** Of columns that are in the indices of domains and of repositories, so that the table is not read. */
const sums = [
  sql<Sum>`cast(count(backups.snapshot_time) as text)`.as('backups'),
  sql<Sum>`cast(sum(backups.virtual_size_bytes) as text)`.as('virtual_size_bytes'),
  sql<Sum>`cast(sum(backups.data_bytes) as text)`.as('data_bytes'),
  sql<Sum>`cast(sum(backups.transferred_bytes) as text)`.as('transferred_bytes'),
  sql<Sum>`cast(sum(backups.stored_bytes) as text)`.as('stored_bytes'),
  sql<string | null>`min(backups.snapshot_time)`.as('oldest'),
  sql<string | null>`max(backups.snapshot_time)`.as('newest'),
] as const;

export function createStatistics({ store }: { store: Store }): Statistics {
  const { db } = store;
  return {
    ofZones: async (zone) => {
      let query = db
        .selectFrom('zones')
        .leftJoin('backups', 'backups.zone', 'zones.name')
        .select([
          'zones.name',
          sql<Sum>`cast(count(distinct backups.domain_uuid) as text)`.as('domains'),
          ...sums,
        ])
        .groupBy('zones.name')
        .orderBy('zones.name');
      if (zone !== '') query = query.where('zones.name', '=', zone);
      return (await query.execute()).map((row) => ({
        zone: row.name,
        domains: BigInt(row.domains ?? 0),
        sums: toSums(row),
      }));
    },
    ofDomains: async ({ zone, domain, pageSize, pageToken }) => {
      const size = parsePageSize(pageSize);
      const after = parseToken(pageToken);
      let query = db
        .selectFrom('backups')
        .select((from) => [
          'backups.zone',
          'backups.domain_uuid',
          from
            .selectFrom('backups as newest')
            .select('newest.domain_name')
            .whereRef('newest.zone', '=', 'backups.zone')
            .whereRef('newest.domain_uuid', '=', 'backups.domain_uuid')
            .orderBy('newest.snapshot_time', 'desc')
            .limit(1)
            .as('domain_name'),
          ...sums,
        ])
        .groupBy(['backups.zone', 'backups.domain_uuid'])
        .orderBy('backups.zone')
        .orderBy('backups.domain_uuid')
        .limit(size + 1);
      if (zone !== '') query = query.where('backups.zone', '=', zone);
      if (domain !== '') {
        const named = db.selectFrom('backups').select('domain_uuid').where('domain_name', '=', domain);
        query = query.where((where) =>
          where.or([
            where('backups.domain_uuid', '=', domain.toLowerCase()),
            where('backups.domain_uuid', 'in', named),
          ]),
        );
      }
      if (after !== undefined) {
        query = query.where((where) =>
          where.or([
            where('backups.zone', '>', after.zone),
            where.and([
              where('backups.zone', '=', after.zone),
              where('backups.domain_uuid', '>', after.uuid),
            ]),
          ]),
        );
      }
      const rows = await query.execute();
      const domains = rows.slice(0, size).map((row) => ({
        zone: row.zone,
        domainUuid: row.domain_uuid,
        domainName: row.domain_name ?? '',
        sums: toSums(row),
      }));
      const last = domains.at(-1);
      return { domains, nextPageToken: rows.length > size && last !== undefined ? tokenAfter(last) : '' };
    },
    ofRepositories: async ({ zone, repository }) => {
      let query = db
        .selectFrom('repositories')
        .leftJoin('backups', 'backups.repository', 'repositories.name')
        .select(['repositories.name', 'repositories.zone', ...sums])
        .groupBy(['repositories.name', 'repositories.zone'])
        .orderBy('repositories.name');
      if (zone !== '') query = query.where('repositories.zone', '=', zone);
      if (repository !== '') query = query.where('repositories.name', '=', repository);
      return (await query.execute()).map((row) => ({
        repository: row.name,
        zone: row.zone,
        sums: toSums(row),
      }));
    },
  };
}

function toSums(row: {
  readonly backups: Sum;
  readonly virtual_size_bytes: Sum;
  readonly data_bytes: Sum;
  readonly transferred_bytes: Sum;
  readonly stored_bytes: Sum;
  readonly oldest: string | null;
  readonly newest: string | null;
}): BackupSums {
  return {
    backups: BigInt(row.backups ?? 0),
    virtualSizeBytes: BigInt(row.virtual_size_bytes ?? 0),
    dataBytes: BigInt(row.data_bytes ?? 0),
    transferredBytes: BigInt(row.transferred_bytes ?? 0),
    storedBytes: BigInt(row.stored_bytes ?? 0),
    oldestSnapshotTime: row.oldest === null ? undefined : new Date(row.oldest),
    newestSnapshotTime: row.newest === null ? undefined : new Date(row.newest),
  };
}

/** The next page begins after this domain, whatever was added meanwhile. */
function tokenAfter({ zone, domainUuid }: Pick<DomainStatistics, 'zone' | 'domainUuid'>): string {
  return Buffer.from(`${zone} ${domainUuid}`).toString('base64url');
}

function parseToken(token: string): { readonly zone: string; readonly uuid: string } | undefined {
  if (token === '') return undefined;
  const match = /^(?<zone>\S+) (?<uuid>[0-9a-f-]{36})$/.exec(Buffer.from(token, 'base64url').toString());
  const { zone, uuid } = match?.groups ?? {};
  if (zone === undefined || uuid === undefined)
    throw new HoldfastError('INVALID_REQUEST', 'The page token is not one that this service gave.');
  return { zone, uuid };
}
