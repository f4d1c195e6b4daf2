import { randomUUID } from 'node:crypto';
import { ImageFormat } from '@holdfast/proto/holdfast/v1/backup.ts';
import { type Command, Option } from 'commander';
import { usage } from '../command-error.ts';
import { withSession, type Context } from '../context.ts';
import { collect, parseMibps, parseUuid } from '../option-values.ts';
import { readPassphrase, withPassphraseOptions, type PassphraseOptions } from '../passphrase.ts';
import { call } from '../session.ts';
import { started } from './started.ts';

interface RestoreOptions extends PassphraseOptions {
  readonly host: string;
  readonly directory: string;
  readonly format: 'qcow2' | 'raw';
  readonly disk?: readonly string[];
  readonly name?: string;
  readonly bandwidth?: bigint;
  readonly requestId?: string;
  readonly detach?: true;
}

const formats = { qcow2: ImageFormat.IMAGE_FORMAT_QCOW2, raw: ImageFormat.IMAGE_FORMAT_RAW } as const;

/** Adds `restore`: restores a backup to new image files and follows it. */
export function addRestore(program: Command, context: Context): void {
  const command = program
    .command('restore')
    .summary('restore a backup to new image files')
    .description('Restores a backup, or some of its disks, to new image files. Nothing is ever overwritten.')
    .argument('<backup>', 'the id of the backup')
    .requiredOption('--host <host>', 'the host on which the files are made')
    .requiredOption('--directory <directory>', 'where on that host; an absolute path that is there already')
    .addOption(new Option('--format <format>', 'of the new files').choices(['qcow2', 'raw']).default('qcow2'))
    .option('--disk <target>', 'only this disk, such as vda; may be repeated', collect)
    .option('--name <name>', 'a new name, with a new UUID and new MAC addresses, to run beside the original')
    .option('--bandwidth <MiBps>', 'MiB of data a second; 0 is unlimited; can be changed later', parseMibps)
    .option(
      '--request-id <uuid>',
      'a request that is repeated with the same id starts nothing new',
      parseUuid,
    )
    .option('--detach', 'start it and do not follow it');
  withPassphraseOptions(command, "opens the zone's key in place of the stored one").action(
    (backupId: string, options: RestoreOptions) =>
      withSession(context, command, async (running) => {
        if (!options.directory.startsWith('/')) {
          throw usage(
            '--directory must be an absolute path: it is a directory of the host, not of this one.',
          );
        }
        const passphrase = await readPassphrase(context.terminal, options, false);
        const { session } = running;
        const { operation } = await call(session, session.backups.restoreBackup.bind(session.backups), {
          backupId,
          host: options.host,
          directory: options.directory,
          format: formats[options.format],
          disks: options.disk ?? [],
          domainName: options.name ?? '',
          bandwidthLimitMibps: options.bandwidth ?? 0n,
          passphrase: passphrase?.reveal() ?? '',
          requestId: options.requestId ?? randomUUID(),
        });
        await started(running, operation, options.detach ?? false);
      }),
  );
}
