import {
  AddRepositoryRequest,
  GetRepositoryResponse,
  Repository,
  RepositoryType,
} from '@holdfast/proto/holdfast/v1/repository.ts';
import type { Command } from 'commander';
import { withSession, type Context } from '../context.ts';
import { formatBytes } from '../format/bytes.ts';
import { formatTime } from '../format/duration.ts';
import { pairs, table } from '../format/table.ts';
import { safe } from '../format/text.ts';
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

function addAdd(parent: Command, context: Context): void {
  const command = parent
    .command('add')
    .description('Adds a repository: a directory that is there already on every host of the zone.')
    .argument('<name>', 'a name for it')
    .argument('<path>', 'the directory, an absolute path')
    .requiredOption('--zone <zone>', 'its zone')
    .action((name: string, path: string, options: { readonly zone: string }) =>
      withSession(context, command, async ({ session, print }) => {
        const { repository } = await call(
          session,
          session.repositories.addRepository.bind(session.repositories),
          AddRepositoryRequest.fromPartial({
            zone: options.zone,
            name,
            path,
            type: RepositoryType.REPOSITORY_TYPE_LOCAL,
          }),
        );
        print(Repository.toJSON(Repository.fromPartial(repository ?? {})), () => [
          `Repository ${safe(name)} was added to zone ${safe(options.zone)}.`,
        ]);
      }),
    );
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
            [{ title: 'REPOSITORY' }, { title: 'ZONE' }, { title: 'PATH' }, { title: 'ADDED' }],
            items.map((item) => [item.name, item.zone, item.path, formatTime(item.createTime)]),
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
            ['Path', answer.repository?.path ?? ''],
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
