import { Key } from '@holdfast/proto/holdfast/v1/key.ts';
import type { Command } from 'commander';
import { withSession, type Context } from '../context.ts';
import { formatTime } from '../format/duration.ts';
import { table } from '../format/table.ts';
import { printList } from '../print.ts';
import { call } from '../session.ts';

/** Adds `key` with `list`. */
export function addKey(program: Command, context: Context): void {
  const key = program.command('key').description('The keys of zones. No secret part is ever shown.');
  const command = key
    .command('list')
    .description("Lists a zone's keys, newest first.")
    .requiredOption('--zone <zone>', 'the zone')
    .action((options: { readonly zone: string }) =>
      withSession(context, command, async (running) => {
        const { session } = running;
        const { keys } = await call(session, session.keys.listKeys.bind(session.keys), {
          zone: options.zone,
        });
        printList(running, Key, keys, (items) =>
          table(
            [
              { title: 'KEY' },
              { title: 'RECIPIENT' },
              { title: 'MADE' },
              { title: 'BACKUPS', align: 'right' },
            ],
            items.map((item) => [
              item.id,
              item.recipient,
              formatTime(item.createTime),
              item.backupCount.toString(),
            ]),
          ),
        );
      }),
    );
}
