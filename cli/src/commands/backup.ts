import { randomUUID } from 'node:crypto';
import type { Command } from 'commander';
import { withSession, type Context } from '../context.ts';
import { collect, parseMibps, parseUuid } from '../option-values.ts';
import {
  PASSPHRASE_KEY,
  readPassphrase,
  withPassphraseOptions,
  type PassphraseOptions,
} from '../passphrase.ts';
import { call } from '../session.ts';
import { addSetting, parseAssignments } from '../settings.ts';
import { started } from './started.ts';

/** The options of `backup` as commander gives them. */
export interface BackupOptions extends PassphraseOptions {
  readonly zone: string;
  readonly host?: string;
  readonly repository?: string;
  readonly set?: readonly string[];
  /** The algorithm; empty for the zone's. */
  readonly compress?: string;
  readonly encrypt?: true;
  readonly bandwidth?: bigint;
  readonly check?: true;
  readonly quiesce?: string;
  readonly transport?: string;
  readonly allowPlaintext?: true;
  readonly requestId?: string;
  readonly detach?: true;
}

/** Adds `backup`: takes a backup of a domain and follows it. */
export function addBackup(program: Command, context: Context): void {
  const command = program
    .command('backup')
    .summary('take a backup of a domain')
    .description(
      'Takes a backup of a domain, running or not, and follows it. The options below win over the settings of the zone.',
    )
    .argument('<domain>', 'name or UUID')
    .requiredOption('--zone <zone>', 'the zone of the domain')
    .option('--host <host>', 'the host that the domain is on; the hosts of the zone are asked otherwise')
    .option('--repository <repository>', 'where the backup goes; may be left out when the zone has one')
    .option('--set <key=value>', 'a setting for this backup alone; may be repeated', collect)
    .option('--compress [algorithm]', 'compress, as --compress or --compress=zstd|zlib')
    .option('--encrypt', 'encrypt')
    .option(
      '--bandwidth <MiBps>',
      'MiB of data a second, all disks together; 0 is unlimited; can be changed later',
      parseMibps,
    )
    .option('--check', 'check the images before they are published')
    .option('--quiesce <mode>', "freeze the guest's file systems: off, best-effort or required")
    .option('--transport <transport>', 'how the data of a running domain is taken: auto, pull or push')
    .option('--allow-plaintext', 'go on although a source volume is encrypted and the backup will not be')
    .option(
      '--request-id <uuid>',
      'a request that is repeated with the same id starts nothing new',
      parseUuid,
    )
    .option('--detach', 'start it and do not follow it');
  withPassphraseOptions(command, 'the passphrase for this backup alone').action(
    (domain: string, options: BackupOptions) =>
      withSession(context, command, async (running) => {
        const settings = backupSettings(options);
        const passphrase = await readPassphrase(context.terminal, options, false);
        if (passphrase !== undefined) settings[PASSPHRASE_KEY] = passphrase.reveal();
        const { session } = running;
        const { operation } = await call(session, session.backups.takeBackup.bind(session.backups), {
          zone: options.zone,
          domain,
          host: options.host ?? '',
          repository: options.repository ?? '',
          settings,
          allowPlaintext: options.allowPlaintext ?? false,
          requestId: options.requestId ?? randomUUID(),
        });
        await started(running, operation, options.detach ?? false);
      }),
  );
}

/** The settings for a request, from `--set` and from the flags that stand for one. */
export function backupSettings(options: BackupOptions): Record<string, string> {
  const settings = parseAssignments(options.set ?? []);
  if (options.compress !== undefined) {
    addSetting(settings, 'nas.backup.compression.enabled', 'true');
    if (options.compress !== '') addSetting(settings, 'nas.backup.compression.algorithm', options.compress);
  }
  if (options.encrypt === true) addSetting(settings, 'nas.backup.encryption.enabled', 'true');
  if (options.check === true) addSetting(settings, 'nas.backup.integrity.check', 'true');
  if (options.bandwidth !== undefined) {
    addSetting(settings, 'nas.backup.bandwidth.limit.mbps', String(options.bandwidth));
  }
  if (options.quiesce !== undefined) addSetting(settings, 'nas.backup.quiesce', options.quiesce);
  if (options.transport !== undefined) addSetting(settings, 'nas.backup.transport', options.transport);
  return settings;
}

/**
 * The command line with every bare `--compress` made complete: commander would take the word after it, which is the
 * domain, for its value.
 */
export function completeCompress(argv: readonly string[]): string[] {
  const end = argv.indexOf('--');
  return argv.map((word, at) => (word === '--compress' && (end === -1 || at < end) ? '--compress=' : word));
}
