import { randomUUID } from 'node:crypto';
import {
  ImportKeysResponse,
  Key,
  RecoverKeysResponse,
  keyStateToJSON,
  type KeyState,
} from '@holdfast/proto/holdfast/v1/key.ts';
import type { Command } from 'commander';
import { usage } from '../command-error.ts';
import { withSession, type Context, type Running } from '../context.ts';
import { formatTime } from '../format/duration.ts';
import { table } from '../format/table.ts';
import { safe } from '../format/text.ts';
import { parseUuid } from '../option-values.ts';
import { readPassphrase, withPassphraseOptions, type PassphraseOptions } from '../passphrase.ts';
import { printList } from '../print.ts';
import { readIdentity, withIdentityOptions, type IdentityOptions } from '../identity.ts';
import { call } from '../session.ts';
import { started } from './started.ts';

/** Each key of a repository is tried, and each try takes a second or two. */
const IMPORT_DEADLINE_MS = 10 * 60_000;

interface ZoneOptions {
  readonly zone: string;
}

interface FollowOptions {
  readonly detach?: true;
}

/** Adds `key` with `list`, `rotate`, `import` and `recover`. */
export function addKey(program: Command, context: Context): void {
  const key = program.command('key').description('The keys of zones. No secret part is ever shown.');
  addList(key, context);
  addRotate(key, context);
  addImport(key, context);
  addRecover(key, context);
}

function addList(parent: Command, context: Context): void {
  const command = parent
    .command('list')
    .description("Lists a zone's keys, newest first, and where files of them have still to be written.")
    .requiredOption('--zone <zone>', 'the zone')
    .action(({ zone }: ZoneOptions) =>
      withSession(context, command, async (running) => {
        const { session } = running;
        const { keys } = await call(session, session.keys.listKeys.bind(session.keys), { zone });
        printList(running, Key, keys, keyTable);
      }),
    );
}

function addRotate(parent: Command, context: Context): void {
  const command = parent
    .command('rotate')
    .description("Makes a new key for a zone, wraps its backups' keys to it, and retires the old one.")
    .requiredOption('--zone <zone>', 'the zone')
    .option(
      '--request-id <uuid>',
      'a request that is repeated with the same id starts nothing new',
      parseUuid,
    )
    .option('--detach', 'start it and do not follow it')
    .action((options: ZoneOptions & FollowOptions & { readonly requestId?: string }) =>
      withSession(context, command, async (running) => {
        const { session } = running;
        const { operation } = await call(session, session.keys.rotateKey.bind(session.keys), {
          zone: options.zone,
          requestId: options.requestId ?? randomUUID(),
        });
        await started(running, operation, options.detach ?? false);
      }),
    );
}

interface ImportOptions extends ZoneOptions, PassphraseOptions {
  readonly repository?: string;
  readonly requestPassphrase?: true;
}

function addImport(parent: Command, context: Context): void {
  const command = parent
    .command('import')
    .description('Takes the zone keys of a repository over that a passphrase opens.')
    .requiredOption('--zone <zone>', 'the zone')
    .option('--repository <repository>', 'the repository; may be left out when the zone has only one')
    .option('--request-passphrase', 'the passphrase was one of single backups, not that of the zone');
  withPassphraseOptions(command, 'the passphrase').action((options: ImportOptions) =>
    withSession(context, command, async (running) => {
      const passphrase = await readPassphrase(context.terminal, options, false);
      if (passphrase === undefined) throw usage('Give --passphrase-file FILE or --ask-passphrase.');
      const { session } = running;
      const answer = await call(
        session,
        session.keys.importKeys.bind(session.keys),
        {
          zone: options.zone,
          repository: options.repository ?? '',
          passphrase: passphrase.reveal(),
          requestPassphrase: options.requestPassphrase ?? false,
        },
        IMPORT_DEADLINE_MS,
      );
      running.print(ImportKeysResponse.toJSON(answer), () => keyTable(answer.keys));
      sayOperation(running, answer.operation?.id);
    }),
  );
}

function addRecover(parent: Command, context: Context): void {
  const command = parent
    .command('recover')
    .description('Opens with an escrow identity the backups whose zone key is missing.')
    .requiredOption('--zone <zone>', 'the zone');
  withIdentityOptions(command).action((options: ZoneOptions & IdentityOptions) =>
    withSession(context, command, async (running) => {
      const identity = await readIdentity(context.terminal, options);
      const { session } = running;
      const answer = await call(
        session,
        session.keys.recoverKeys.bind(session.keys),
        { zone: options.zone, identity: identity.reveal() },
        IMPORT_DEADLINE_MS,
      );
      running.print(RecoverKeysResponse.toJSON(answer), () => [
        `${answer.recoveredCount} recovered, ${answer.missingCount} not.`,
      ]);
      sayOperation(running, answer.operation?.id);
    }),
  );
}

/** On stderr, since it is no result. */
function sayOperation({ terminal, json }: Running, operationId: string | undefined): void {
  if (operationId === undefined || json) return;
  terminal.err.write(
    `Operation ${safe(operationId)} writes the key files: holdfast watch ${safe(operationId)}\n`,
  );
}

function keyTable(keys: readonly Key[]): string[] {
  return table(
    [
      { title: 'KEY' },
      { title: 'STATE' },
      { title: 'RECIPIENT' },
      { title: 'MADE' },
      { title: 'RETIRED' },
      { title: 'BACKUPS', align: 'right' },
      { title: 'PENDING' },
    ],
    keys.map((key) => [
      key.id,
      stateInWords(key.state),
      key.recipient === '' ? '-' : key.recipient,
      formatTime(key.createTime),
      key.retireTime === undefined ? '-' : formatTime(key.retireTime),
      key.backupCount.toString(),
      key.pending
        .map(({ repository, message }) => (message === '' ? repository : `${repository}: ${message}`))
        .join('; ') || '-',
    ]),
  );
}

function stateInWords(state: KeyState): string {
  return keyStateToJSON(state).replace('KEY_STATE_', '').toLowerCase();
}
