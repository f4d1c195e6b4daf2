import { Backup } from '@holdfast/proto/holdfast/v1/backup.ts';
import type { Command } from 'commander';
import { withSession, type Context } from '../context.ts';
import { call } from '../session.ts';
import { backupPage } from './backup-page.ts';

/** Adds `show`: one backup with its manifest. */
export function addShow(program: Command, context: Context): void {
  const command = program
    .command('show')
    .summary('show a backup')
    .description('Shows all that is known of a backup: disks, consistency, encryption, stages.')
    .argument('<backup>', 'the id of the backup')
    .action((backupId: string) =>
      withSession(context, command, async ({ session, print }) => {
        const { backup } = await call(session, session.backups.getBackup.bind(session.backups), { backupId });
        if (backup === undefined) throw new Error('The controller answered without the backup.');
        print(Backup.toJSON(backup), () => backupPage(backup));
      }),
    );
}
