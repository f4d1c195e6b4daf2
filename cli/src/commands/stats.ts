import {
  DomainStatistics,
  RepositoryStatistics,
  type ScrubStatus,
  ZoneStatistics,
  type BackupSums,
} from '@holdfast/proto/holdfast/v1/statistics.ts';
import type { Command } from 'commander';
import { withSession, type Context } from '../context.ts';
import { formatBytes } from '../format/bytes.ts';
import { formatTime } from '../format/duration.ts';
import { table, type Column } from '../format/table.ts';
import { pages } from '../pages.ts';
import { printList } from '../print.ts';
import { call } from '../session.ts';

/** Adds `stats` with `zone`, `domain` and `repository`. */
export function addStats(program: Command, context: Context): void {
  const stats = program
    .command('stats')
    .summary('sums over backups, and the space of repositories')
    .description(
      'Sums over backups. DATA is what the sources held, TRANSFERRED what QEMU wrote to the repository, STORED the ' +
        "length of the image files. One backup's own figures, disk by disk: holdfast show BACKUP.",
    );
  addZone(stats, context);
  addDomain(stats, context);
  addRepository(stats, context);
}

function addZone(parent: Command, context: Context): void {
  const command = parent
    .command('zone')
    .description('Sums by zone.')
    .argument('[zone]', 'only this zone')
    .action((zone: string | undefined) =>
      withSession(context, command, async (running) => {
        const { session } = running;
        const { zones } = await call(
          session,
          session.statistics.listZoneStatistics.bind(session.statistics),
          { zone: zone ?? '' },
        );
        printList(running, ZoneStatistics, zones, (items) =>
          table(
            [{ title: 'ZONE' }, { title: 'DOMAINS', align: 'right' }, ...sumColumns],
            items.map((item) => [item.zone, item.domains.toString(), ...sumCells(item.sums)]),
          ),
        );
      }),
    );
}

function addDomain(parent: Command, context: Context): void {
  const command = parent
    .command('domain')
    .description('Sums by domain.')
    .argument('[domain]', 'only this domain, by name or UUID')
    .option('--zone <zone>', 'only those of this zone')
    .action((domain: string | undefined, options: { readonly zone?: string }) =>
      withSession(context, command, async (running) => {
        const { session } = running;
        const domains: DomainStatistics[] = [];
        for await (const page of pages((pageToken) =>
          call(session, session.statistics.listDomainStatistics.bind(session.statistics), {
            zone: options.zone ?? '',
            domain: domain ?? '',
            pageSize: 0,
            pageToken,
          }),
        )) {
          domains.push(...page.domains);
        }
        printList(running, DomainStatistics, domains, (items) =>
          table(
            [{ title: 'DOMAIN' }, { title: 'UUID' }, { title: 'ZONE' }, ...sumColumns],
            items.map((item) => [item.domainName, item.domainUuid, item.zone, ...sumCells(item.sums)]),
          ),
        );
      }),
    );
}

function addRepository(parent: Command, context: Context): void {
  const command = parent
    .command('repository')
    .description(
      'Space and sums by repository. Space is asked now; USED is by whatever lies there. UNPROVED SINCE is of the ' +
        'backup with the oldest proof, SCRUB what the scheduled scrubs do.',
    )
    .argument('[repository]', 'only this repository')
    .option('--zone <zone>', 'only those of this zone')
    .action((repository: string | undefined, options: { readonly zone?: string }) =>
      withSession(context, command, async (running) => {
        const { session } = running;
        const { repositories } = await call(
          session,
          session.statistics.listRepositoryStatistics.bind(session.statistics),
          { zone: options.zone ?? '', repository: repository ?? '' },
        );
        printList(running, RepositoryStatistics, repositories, repositoryTable);
      }),
    );
}

function repositoryTable(repositories: readonly RepositoryStatistics[]): string[] {
  return table(
    [
      { title: 'REPOSITORY' },
      { title: 'ZONE' },
      { title: 'SPACE', align: 'right' },
      { title: 'USED', align: 'right' },
      { title: 'FREE', align: 'right' },
      ...sumColumns,
      { title: 'DAMAGED', align: 'right' },
      { title: 'UNPROVED SINCE' },
      { title: 'SCRUB' },
      { title: 'PROBLEM' },
    ],
    repositories.map(({ repository, zone, space, sums, scrub, error }) => [
      repository,
      zone,
      ...[space?.sizeBytes, space?.usedBytes, space?.freeBytes].map((bytes) =>
        bytes === undefined ? '?' : formatBytes(bytes),
      ),
      ...sumCells(sums),
      String(scrub?.damagedBackups ?? '?'),
      formatTime(scrub?.unprovedSinceTime),
      scrub === undefined ? '?' : scrubbing(scrub),
      error?.message ?? '-',
    ]),
  );
}

/** What the scrubs of a repository do now. */
function scrubbing({ enabled, open, operationId, dueBackups, ...rest }: ScrubStatus): string {
  if (operationId !== '') return `operation ${operationId}`;
  if (!enabled) return 'off';
  const due = `${dueBackups} due`;
  if (!open) return `${due}, outside of the window`;
  if (rest.restUntilTime === undefined) return due;
  return `${due}, rests until ${formatTime(rest.restUntilTime)}: ${rest.restMessage}`;
}

const sumColumns: readonly Column[] = [
  { title: 'BACKUPS', align: 'right' },
  { title: 'DATA', align: 'right' },
  { title: 'TRANSFERRED', align: 'right' },
  { title: 'STORED', align: 'right' },
  { title: 'OLDEST' },
  { title: 'NEWEST' },
];

function sumCells(sums: BackupSums | undefined): readonly string[] {
  const { backups = 0n, dataBytes = 0n, transferredBytes = 0n, storedBytes = 0n } = sums ?? {};
  return [
    backups.toString(),
    formatBytes(dataBytes),
    formatBytes(transferredBytes),
    formatBytes(storedBytes),
    formatTime(sums?.oldestSnapshotTime),
    formatTime(sums?.newestSnapshotTime),
  ];
}
