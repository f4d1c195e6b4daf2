import { describePlace } from '@holdfast/common/repository.ts';
import { GetRepositoryResponse, Repository, RepositoryType } from '@holdfast/proto/holdfast/v1/repository.ts';
import { Option, type Command } from 'commander';
import { withSession, type Context } from '../context.ts';
import { readCredentials, withCredentialsOptions, type CredentialsOptions } from '../credentials.ts';
import { formatBytes } from '../format/bytes.ts';
import { formatTime } from '../format/duration.ts';
import { pairs, table } from '../format/table.ts';
import { safe } from '../format/text.ts';
import { collect } from '../option-values.ts';
import { printList } from '../print.ts';
import { call } from '../session.ts';

/** Adds `repository` with `add`, `list`, `show` and `remove`. */
export function addRepository(program: Command, context: Context): void {
  const repository = program.command('repository').description('Where backups lie.');
  addAdd(repository, context);
  addList(repository, context);
  addShow(repository, context);
  addRemove(repository, context);
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
            ],
            items.map((item) => [
              item.name,
              item.zone,
              typeName(item.type),
              describePlace(item),
              formatTime(item.createTime),
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
            ['Size', formatBytes(answer.sizeBytes)],
            ['Free', formatBytes(answer.freeBytes)],
          ]),
        );
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
