import { GetHostResponse, Host } from '@holdfast/proto/holdfast/v1/host.ts';
import type { Command } from 'commander';
import { withSession, type Context } from '../context.ts';
import { formatTime } from '../format/duration.ts';
import { pairs, table } from '../format/table.ts';
import { safe } from '../format/text.ts';
import { printList } from '../print.ts';
import { call } from '../session.ts';

/** Adds `host` with `add`, `list`, `show` and `remove`. */
export function addHost(program: Command, context: Context): void {
  const host = program.command('host').description('KVM hosts, each with an agent.');
  addAdd(host, context);
  addList(host, context);
  addShow(host, context);
  addRemove(host, context);
}

function addAdd(parent: Command, context: Context): void {
  const command = parent
    .command('add')
    .description('Adds a host: its agent is asked who it is, and must belong to the zone.')
    .argument('<address>', 'where its agent listens: unix:///PATH or HOST:PORT')
    .requiredOption('--zone <zone>', 'its zone')
    .option('--name <name>', 'its name; the one that its agent gives when left out')
    .action((address: string, options: { readonly zone: string; readonly name?: string }) =>
      withSession(context, command, async ({ session, print }) => {
        const request = { zone: options.zone, name: options.name ?? '', address };
        const { host } = await call(session, session.hosts.addHost.bind(session.hosts), request);
        print(Host.toJSON(Host.fromPartial(host ?? {})), () => [
          `Host ${safe(host?.name ?? '')} was added to zone ${safe(options.zone)}.`,
        ]);
      }),
    );
}

function addList(parent: Command, context: Context): void {
  const command = parent
    .command('list')
    .description('Lists the hosts.')
    .option('--zone <zone>', 'only those of this zone')
    .action((options: { readonly zone?: string }) =>
      withSession(context, command, async (running) => {
        const { session } = running;
        const request = { zone: options.zone ?? '' };
        const { hosts } = await call(session, session.hosts.listHosts.bind(session.hosts), request);
        printList(running, Host, hosts, (items) =>
          table(
            [{ title: 'HOST' }, { title: 'ZONE' }, { title: 'ADDRESS' }, { title: 'ADDED' }],
            items.map((host) => [host.name, host.zone, host.address, formatTime(host.createTime)]),
          ),
        );
      }),
    );
}

function addShow(parent: Command, context: Context): void {
  const command = parent
    .command('show')
    .description('Shows a host as its agent answers now: versions and domains.')
    .argument('<host>', 'the name of the host')
    .action((name: string) =>
      withSession(context, command, async ({ session, print }) => {
        const answer = await call(session, session.hosts.getHost.bind(session.hosts), { name });
        print(GetHostResponse.toJSON(answer), () => hostPage(answer));
      }),
    );
}

function addRemove(parent: Command, context: Context): void {
  const command = parent
    .command('remove')
    .description('Removes a host. Its backups stay.')
    .argument('<host>', 'the name of the host')
    .action((name: string) =>
      withSession(context, command, async ({ session, print }) => {
        await call(session, session.hosts.removeHost.bind(session.hosts), { name });
        print({ name }, () => [`Host ${safe(name)} was removed.`]);
      }),
    );
}

function hostPage({ host, toolVersions, domains }: GetHostResponse): string[] {
  return [
    ...pairs([
      ['Host', host?.name ?? ''],
      ['Zone', host?.zone ?? ''],
      ['Address', host?.address ?? ''],
      ...Object.entries(toolVersions),
    ]),
    '',
    ...table(
      [{ title: 'DOMAIN' }, { title: 'UUID' }, { title: 'STATE' }, { title: 'DISKS' }],
      domains.map((domain) => [
        domain.name,
        domain.uuid,
        domain.state,
        domain.disks.map((disk) => disk.target).join(','),
      ]),
    ),
  ];
}
