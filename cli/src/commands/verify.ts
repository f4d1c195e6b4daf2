import { randomUUID } from 'node:crypto';
import type { Command } from 'commander';
import { withSession, type Context } from '../context.ts';
import { parseMibps, parsePercent, parseUuid } from '../option-values.ts';
import { readPassphrase, withPassphraseOptions, type PassphraseOptions } from '../passphrase.ts';
import { call } from '../session.ts';
import { started } from './started.ts';

interface VerifyOptions extends PassphraseOptions {
  readonly host?: string;
  readonly requestId?: string;
  readonly level?: string;
  readonly sample?: number;
  readonly bandwidth?: bigint;
  readonly detach?: true;
}

/** Adds `verify`: proves a backup and follows it. */
export function addVerify(program: Command, context: Context): void {
  const command = program
    .command('verify')
    .summary('prove that a backup is intact')
    .description(
      'Proves that a backup is as it was published: the metadata of its images, all bytes stored, or all that the guest saw.',
    )
    .argument('<backup>', 'the id of the backup')
    .option('--host <host>', 'the host that does the work')
    .option(
      '--request-id <uuid>',
      'a request that is repeated with the same id starts nothing new',
      parseUuid,
    )
    .option('--level <level>', 'metadata, stored or content; without it, what the zone has set')
    .option('--sample <percent>', 'read only this part, the next one with each run', parsePercent)
    .option('--bandwidth <MiBps>', 'MiB a second that are read; 0 is unlimited', parseMibps)
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
          level: options.level ?? '',
          samplePercent: options.sample ?? 0,
          bandwidthLimitMibps: options.bandwidth ?? 0n,
        });
        await started(running, operation, options.detach ?? false);
      }),
  );
}
