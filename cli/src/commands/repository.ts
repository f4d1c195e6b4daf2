import { describePlace } from '@holdfast/common/repository.ts';
import {
  GetRepositoryResponse,
  Repository,
  RepositoryState,
  RepositoryType,
  type RepositoryHealth,
} from '@holdfast/proto/holdfast/v1/repository.ts';
import { Option, type Command } from 'commander';
import { usage } from '../command-error.ts';
import { withSession, type Context } from '../context.ts';
import { readCredentials, withCredentialsOptions, type CredentialsOptions } from '../credentials.ts';
import { formatBytes } from '../format/bytes.ts';
import { formatTime } from '../format/duration.ts';
import { pairs, table } from '../format/table.ts';
import { safe } from '../format/text.ts';
import { collect } from '../option-values.ts';
import { printList } from '../print.ts';
import { call } from '../session.ts';
import { addRescan } from './rescan.ts';

/** Adds `repository` with `add`, `list`, `show`, `set-credentials`, `remove` and `rescan`. */
export function addRepository(program: Command, context: Context): void {
  const repository = program.command('repository').description('Where backups lie.');
  addAdd(repository, context);
  addList(repository, context);
  addShow(repository, context);
  addSetCredentials(repository, context);
  addRemove(repository, context);
  addRescan(repository, context);
}

/** The types by the names that people type. */
const TYPES = {
  local: RepositoryType.REPOSITORY_TYPE_LOCAL,
  nfs: RepositoryType.REPOSITORY_TYPE_NFS,
  cifs: RepositoryType.REPOSITORY_TYPE_CIFS,
  ceph: RepositoryType.REPOSITORY_TYPE_CEPH,
} as const;

interface AddOptions extends CredentialsOptions {
  readonly zone: string;
  readonly type: keyof typeof TYPES;
  readonly address?: string;
  readonly option?: readonly string[];
}

function addAdd(parent: Command, context: Context): void {
  const command = parent
    .command('add')
    .description('Adds a repository: an export that the hosts mount when they need it, or a local directory.')
    .argument('<name>', 'a name for it')
    .argument(
      '[path]',
      'the directory of a local one, an absolute path that is there on every host of the zone',
    )
    .requiredOption('--zone <zone>', 'its zone')
    .addOption(new Option('--type <type>', 'its kind').choices(Object.keys(TYPES)).default('local'))
    .option('--address <address>', 'nfs SERVER:/EXPORT, cifs //SERVER/SHARE, ceph MON1:6789,MON2:6789:/PATH')
    .option('--option <option>', 'a mount option, such as nconnect=4; may be repeated', collect);
  withCredentialsOptions(command).action((name: string, path: string | undefined, options: AddOptions) =>
    withSession(context, command, async ({ session, print }) => {
      const { repository } = await call(
        session,
        session.repositories.addRepository.bind(session.repositories),
        {
          zone: options.zone,
          name,
          path: path ?? '',
          type: TYPES[options.type],
          address: options.address ?? '',
          mountOptions: options.option ?? [],
          credentials: await readCredentials(context.terminal, options),
        },
      );
      print(Repository.toJSON(Repository.fromPartial(repository ?? {})), () => [
        `Repository ${safe(name)} was added to zone ${safe(options.zone)}.`,
      ]);
    }),
  );
}

/** A type as people type it. */
function typeName(type: RepositoryType): string {
  return Object.entries(TYPES).find(([, value]) => value === type)?.[0] ?? 'unknown';
}

/** The states by the words that people read. */
const STATES: Readonly<Record<RepositoryState, string>> = {
  [RepositoryState.REPOSITORY_STATE_UNSPECIFIED]: 'unknown',
  [RepositoryState.REPOSITORY_STATE_ANSWERING]: 'answering',
  [RepositoryState.REPOSITORY_STATE_STALLED]: 'STALLED',
  [RepositoryState.REPOSITORY_STATE_UNUSABLE]: 'unusable',
  [RepositoryState.UNRECOGNIZED]: 'unknown',
};

/** `STALLED since 2026-01-31 12:00:00Z: did not answer within 10 s`. */
function describeHealth({ state, since, message }: RepositoryHealth): string {
  return `${STATES[state]} since ${formatTime(since)}${message === '' ? '' : `: ${safe(message)}`}`;
}

/** Of all hosts in a few words, the bad ones first: `STALLED on host-1, answering on 2 hosts`. */
function summarizeHealth(health: readonly RepositoryHealth[]): string {
  if (health.length === 0) return 'not used yet';
  const bad = health.filter(({ state }) => state !== RepositoryState.REPOSITORY_STATE_ANSWERING);
  const good = health.length - bad.length;
  return [
    ...bad.map(({ state, host }) => `${STATES[state]} on ${host}`),
    ...(good === 0
      ? []
      : [bad.length === 0 ? 'answering' : `answering on ${good} host${good === 1 ? '' : 's'}`]),
  ].join(', ');
}

function spacePairs({ sizeBytes, freeBytes }: GetRepositoryResponse): [string, string][] {
  if (sizeBytes === 0n) return [];
  return [
    ['Size', formatBytes(sizeBytes)],
    ['Free', formatBytes(freeBytes)],
  ];
}

function addList(parent: Command, context: Context): void {
  const command = parent
    .command('list')
    .description('Lists the repositories.')
    .option('--zone <zone>', 'only those of this zone')
    .action((options: { readonly zone?: string }) =>
      withSession(context, command, async (running) => {
        const { session } = running;
        const { repositories } = await call(
          session,
          session.repositories.listRepositories.bind(session.repositories),
          { zone: options.zone ?? '' },
        );
        printList(running, Repository, repositories, (items) =>
          table(
            [
              { title: 'REPOSITORY' },
              { title: 'ZONE' },
              { title: 'TYPE' },
              { title: 'ADDRESS' },
              { title: 'ADDED' },
              { title: 'HEALTH' },
            ],
            items.map((item) => [
              item.name,
              item.zone,
              typeName(item.type),
              describePlace(item),
              formatTime(item.createTime),
              summarizeHealth(item.health),
            ]),
          ),
        );
      }),
    );
}

function addShow(parent: Command, context: Context): void {
  const command = parent
    .command('show')
    .description('Shows a repository with its space, asked now.')
    .argument('<repository>', 'the name of the repository')
    .action((name: string) =>
      withSession(context, command, async ({ session, print }) => {
        const answer = await call(session, session.repositories.getRepository.bind(session.repositories), {
          name,
        });
        print(GetRepositoryResponse.toJSON(answer), () =>
          pairs([
            ['Repository', answer.repository?.name ?? ''],
            ['Zone', answer.repository?.zone ?? ''],
            ['Type', typeName(answer.repository?.type ?? 0)],
            ['Address', describePlace(answer.repository ?? Repository.fromPartial({}))],
            ['Options', answer.repository?.mountOptions.join(' ') ?? ''],
            ['Id', answer.repository?.repositoryId ?? ''],
            ...spacePairs(answer),
            ...(answer.repository?.health ?? []).map((each): [string, string] => [
              `On ${each.host}`,
              describeHealth(each),
            ]),
          ]),
        );
      }),
    );
}

function addSetCredentials(parent: Command, context: Context): void {
  const command = parent
    .command('set-credentials')
    .description('Has a repository mounted with other credentials from now on, once a host has proved them.')
    .argument('<repository>', 'the name of the repository');
  withCredentialsOptions(command).action((name: string, options: CredentialsOptions) =>
    withSession(context, command, async ({ session, print }) => {
      const credentials = await readCredentials(context.terminal, options);
      if (credentials === undefined)
        throw usage('Give all of them: --username NAME, and --password-file FILE or --ask-password.');
      const { repository } = await call(
        session,
        session.repositories.setRepositoryCredentials.bind(session.repositories),
        { name, credentials },
      );
      print(Repository.toJSON(Repository.fromPartial(repository ?? {})), () => [
        `Repository ${safe(name)} is mounted with these credentials from now on.`,
      ]);
    }),
  );
}

function addRemove(parent: Command, context: Context): void {
  const command = parent
    .command('remove')
    .description('Removes a repository from the catalogue. Nothing on it is touched.')
    .argument('<repository>', 'the name of the repository')
    .action((name: string) =>
      withSession(context, command, async ({ session, print }) => {
        await call(session, session.repositories.removeRepository.bind(session.repositories), { name });
        print({ name }, () => [`Repository ${safe(name)} was removed.`]);
      }),
    );
}
