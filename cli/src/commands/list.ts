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
}

/** Adds `list`: backups, newest first. */
export function addList(program: Command, context: Context): void {
  const command = program
    .command('list')
    .summary('list backups')
    .description('Lists backups, newest first.')
    .option('--zone <zone>', 'only those of this zone')
    .option('--domain <domain>', 'only those of this domain, by name or UUID')
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
      { title: 'VERIFIED' },
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
      verified(backup),
    ]),
  );
}

function traits({ compressed, encrypted, quiesced }: Backup): string {
  const all = [compressed ? 'compressed' : '', encrypted ? 'encrypted' : '', quiesced ? 'quiesced' : ''];
  return all.filter((trait) => trait !== '').join(',') || '-';
}

function verified({ lastVerification }: Backup): string {
  if (lastVerification === undefined) return 'never';
  return `${lastVerification.intact ? 'intact' : 'DAMAGED'} ${formatTime(lastVerification.time)}`;
}
