import { randomUUID } from 'node:crypto';
import type { Command } from 'commander';
import { CommandError, usage } from '../command-error.ts';
import { withSession, type Context, type Running } from '../context.ts';
import { formatBytes } from '../format/bytes.ts';
import { formatTime } from '../format/duration.ts';
import { safe } from '../format/text.ts';
import { parseUuid } from '../option-values.ts';
import { call } from '../session.ts';
import { started } from './started.ts';

interface DeleteOptions {
  readonly yes?: true;
  readonly requestId?: string;
  readonly detach?: true;
}

/** Adds `delete`: deletes a backup, after a question. */
export function addDelete(program: Command, context: Context): void {
  const command = program
    .command('delete')
    .summary('delete a backup')
    .description('Deletes a backup from its repository and from the catalogue.')
    .argument('<backup>', 'the id of the backup')
    .option('--yes', 'do not ask')
    .option(
      '--request-id <uuid>',
      'a request that is repeated with the same id starts nothing new',
      parseUuid,
    )
    .option('--detach', 'start it and do not follow it')
    .action((backupId: string, options: DeleteOptions) =>
      withSession(context, command, async (running) => {
        if (options.yes !== true) await makeSure(running, backupId);
        const { session } = running;
        const { operation } = await call(session, session.backups.deleteBackup.bind(session.backups), {
          backupId,
          requestId: options.requestId ?? randomUUID(),
        });
        await started(running, operation, options.detach ?? false);
      }),
    );
}

async function makeSure({ session, terminal, json }: Running, backupId: string): Promise<void> {
  if (!terminal.interactive || json) {
    throw usage('There is nobody to ask whether the backup shall really be deleted; add --yes.');
  }
  const { backup } = await call(session, session.backups.getBackup.bind(session.backups), { backupId });
  const what =
    backup === undefined
      ? `backup ${safe(backupId)}`
      : `the backup of ${safe(backup.domainName)} from ${formatTime(backup.snapshotTime)} ` +
        `(${formatBytes(backup.storedBytes)})`;
  if (!(await terminal.confirm(`Delete ${what}?`)))
    throw new CommandError('INTERRUPTED', 'Nothing was deleted.');
}
