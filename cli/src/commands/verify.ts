import { randomUUID } from 'node:crypto';
import type { Command } from 'commander';
import { withSession, type Context } from '../context.ts';
import { parseUuid } from '../option-values.ts';
import { readPassphrase, withPassphraseOptions, type PassphraseOptions } from '../passphrase.ts';
import { call } from '../session.ts';
import { started } from './started.ts';

interface VerifyOptions extends PassphraseOptions {
  readonly host?: string;
  readonly requestId?: string;
  readonly detach?: true;
}

/** Adds `verify`: proves a backup and follows it. */
export function addVerify(program: Command, context: Context): void {
  const command = program
    .command('verify')
    .summary('prove that a backup is intact')
    .description('Proves that a backup is as it was published and that its images are sound.')
    .argument('<backup>', 'the id of the backup')
    .option('--host <host>', 'the host that does the work')
    .option(
      '--request-id <uuid>',
      'a request that is repeated with the same id starts nothing new',
      parseUuid,
    )
    .option('--detach', 'start it and do not follow it');
  withPassphraseOptions(command, "opens the zone's key in place of the stored one").action(
    (backupId: string, options: VerifyOptions) =>
      withSession(context, command, async (running) => {
        const passphrase = await readPassphrase(context.terminal, options, false);
        const { session } = running;
        const { operation } = await call(session, session.backups.verifyBackup.bind(session.backups), {
          backupId,
          host: options.host ?? '',
          passphrase: passphrase?.reveal() ?? '',
          requestId: options.requestId ?? randomUUID(),
        });
        await started(running, operation, options.detach ?? false);
      }),
  );
}
