import { Backup } from '@holdfast/proto/holdfast/v1/backup.ts';
import type { Command } from 'commander';
import { withSession, type Context } from '../context.ts';
import { formatBytes } from '../format/bytes.ts';
import { formatTime } from '../format/duration.ts';
import { table } from '../format/table.ts';
import { pages } from '../pages.ts';
import { printList } from '../print.ts';
import { call } from '../session.ts';

interface ListOptions {
  readonly zone?: string;
  readonly domain?: string;
  readonly damaged?: boolean;
}

/** Adds `list`: backups, newest first. */
export function addList(program: Command, context: Context): void {
  const command = program
    .command('list')
    .summary('list backups')
    .description('Lists backups, newest first.')
    .option('--zone <zone>', 'only those of this zone')
    .option('--domain <domain>', 'only those of this domain, by name or UUID')
    .option('--damaged', 'only those that are known to be damaged')
    .action((options: ListOptions) =>
      withSession(context, command, async (running) => {
        const { session } = running;
        const backups: Backup[] = [];
        for await (const page of pages((pageToken) =>
          call(session, session.backups.listBackups.bind(session.backups), {
            zone: options.zone ?? '',
            domain: options.domain ?? '',
            pageSize: 0,
            pageToken,
            damaged: options.damaged ?? false,
          }),
        )) {
          backups.push(...page.backups);
        }
        printList(running, Backup, backups, backupTable);
      }),
    );
}

function backupTable(backups: readonly Backup[]): string[] {
  return table(
    [
      { title: 'BACKUP' },
      { title: 'DOMAIN' },
      { title: 'ZONE' },
      { title: 'REPOSITORY' },
      { title: 'TAKEN' },
      { title: 'DATA', align: 'right' },
      { title: 'STORED', align: 'right' },
      { title: 'TRAITS' },
      { title: 'STATE' },
      { title: 'PROVED' },
    ],
    backups.map((backup) => [
      backup.id,
      backup.domainName,
      backup.zone,
      backup.repository,
      formatTime(backup.snapshotTime),
      formatBytes(backup.dataBytes),
      formatBytes(backup.storedBytes),
      traits(backup),
      backup.damage === undefined ? 'ok' : 'DAMAGED',
      proved(backup),
    ]),
  );
}

function traits({ compressed, encrypted, quiesced }: Backup): string {
  const all = [compressed ? 'compressed' : '', encrypted ? 'encrypted' : '', quiesced ? 'quiesced' : ''];
  return all.filter((trait) => trait !== '').join(',') || '-';
}

function proved({ lastProof }: Backup): string {
  return lastProof === undefined ? 'never' : `${lastProof.level} ${formatTime(lastProof.time)}`;
}
