import { randomUUID } from 'node:crypto';
import { ImageFormat, type RbdTarget } from '@holdfast/proto/holdfast/v1/backup.ts';
import { type Command, Option } from 'commander';
import { usage } from '../command-error.ts';
import { withSession, type Context } from '../context.ts';
import { collect, parseMibps, parseUuid } from '../option-values.ts';
import { readPassphrase, withPassphraseOptions, type PassphraseOptions } from '../passphrase.ts';
import { call } from '../session.ts';
import { started } from './started.ts';

interface RestoreOptions extends PassphraseOptions {
  readonly host: string;
  readonly directory?: string;
  readonly rbdPool?: string;
  readonly rbdNamespace?: string;
  readonly rbdMonitor?: readonly string[];
  readonly rbdUser?: string;
  readonly rbdSecret?: string;
  readonly rbdConf?: string;
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
    .option('--directory <directory>', 'where on that host; an absolute path that is there already')
    .option('--rbd-pool <pool>', 'make RBD images in this pool; the directory is for the domain XML alone')
    .option('--rbd-namespace <namespace>', 'a namespace in the pool; its own when left out')
    .option(
      '--rbd-monitor <host:port>',
      "a monitor; the backed-up domain's when left out; may be repeated",
      collect,
    )
    .option('--rbd-user <user>', 'the user of the cluster, without client.')
    .option(
      '--rbd-secret <uuid>',
      "the host's libvirt secret with the user's key; a keyring when left out",
      parseUuid,
    )
    .option('--rbd-conf <path>', 'a ceph.conf on the host')
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
        const { directory = '' } = options;
        const rbd = rbdTarget(options);
        const disksAlone = rbd !== undefined && options.disk !== undefined;
        if (!(disksAlone && directory === '') && !directory.startsWith('/')) {
          throw usage(
            '--directory must be an absolute path: it is a directory of the host, not of this one. It can be left out ' +
              'only with --rbd-pool and --disk.',
          );
        }
        const passphrase = await readPassphrase(context.terminal, options, false);
        const { session } = running;
        const { operation } = await call(session, session.backups.restoreBackup.bind(session.backups), {
          backupId,
          host: options.host,
          directory,
          format: formats[options.format],
          disks: options.disk ?? [],
          domainName: options.name ?? '',
          bandwidthLimitMibps: options.bandwidth ?? 0n,
          passphrase: passphrase?.reveal() ?? '',
          requestId: options.requestId ?? randomUUID(),
          rbd,
        });
        await started(running, operation, options.detach ?? false);
      }),
  );
}

function rbdTarget(options: RestoreOptions): RbdTarget | undefined {
  const { rbdPool, rbdNamespace = '', rbdMonitor = [], rbdUser = '', rbdSecret = '', rbdConf = '' } = options;
  if (rbdPool !== undefined) {
    return {
      pool: rbdPool,
      namespace: rbdNamespace,
      monitors: rbdMonitor,
      user: rbdUser,
      secretUuid: rbdSecret,
      confPath: rbdConf,
    };
  }
  const rest = [rbdNamespace, rbdUser, rbdSecret, rbdConf, ...rbdMonitor];
  if (rest.some((value) => value !== '')) throw usage('--rbd-... options need --rbd-pool.');
  return undefined;
}
