import { GetHostResponse, Host, HostState } from '@holdfast/proto/holdfast/v1/host.ts';
import type { Command } from 'commander';
import { withSession, type Context, type Running } from '../context.ts';
import { formatTime } from '../format/duration.ts';
import { pairs, table } from '../format/table.ts';
import { safe } from '../format/text.ts';
import { collect } from '../option-values.ts';
import { printList } from '../print.ts';
import { call } from '../session.ts';

/** Adds `host` with `add`, `list`, `show`, `label`, `drain`, `undrain` and `remove`. */
export function addHost(program: Command, context: Context): void {
  const host = program.command('host').description('KVM hosts, each with an agent.');
  addAdd(host, context);
  addList(host, context);
  addShow(host, context);
  addLabel(host, context);
  addDrain(host, context);
  addUndrain(host, context);
  addRemove(host, context);
}

interface AddOptions {
  readonly zone: string;
  readonly name?: string;
  readonly label?: readonly string[];
}

function addAdd(parent: Command, context: Context): void {
  const command = parent
    .command('add')
    .description('Adds a host: its agent is asked who it is, and must belong to the zone.')
    .argument('<address>', 'where its agent listens: unix:///PATH or HOST:PORT')
    .requiredOption('--zone <zone>', 'its zone')
    .option('--name <name>', 'its name; the one that its agent gives when left out')
    .option('--label <key=value>', 'a label; may be repeated', collect)
    .action((address: string, options: AddOptions) =>
      withSession(context, command, async ({ session, print }) => {
        const { set: labels } = parseLabels(options.label ?? []);
        const request = { zone: options.zone, name: options.name ?? '', address, labels };
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
    .option('--label <key[=value]>', 'only those with this label; may be repeated', collect)
    .action((options: { readonly zone?: string; readonly label?: readonly string[] }) =>
      withSession(context, command, async (running) => {
        const { session } = running;
        const request = { zone: options.zone ?? '', labels: [...(options.label ?? [])] };
        const { hosts } = await call(session, session.hosts.listHosts.bind(session.hosts), request);
        printList(running, Host, hosts, (items) =>
          table(
            [
              { title: 'HOST' },
              { title: 'ZONE' },
              { title: 'STATE' },
              { title: 'RUNNING' },
              { title: 'QUEUED' },
              { title: 'LABELS' },
              { title: 'ADDRESS' },
              { title: 'ADDED' },
            ],
            items.map((host) => [
              host.name,
              host.zone,
              stateOf(host),
              String(host.runningOperations),
              String(host.queuedOperations),
              labelsOf(host),
              host.address,
              formatTime(host.createTime),
            ]),
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

function addLabel(parent: Command, context: Context): void {
  const command = parent
    .command('label')
    .description('Sets and removes labels of a host.')
    .argument('<host>', 'the name of the host')
    .argument('<labels...>', 'KEY=VALUE sets a label, KEY- removes one')
    .action((name: string, labels: readonly string[]) =>
      withSession(context, command, async ({ session, print }) => {
        const { set, remove } = parseLabels(labels);
        const request = { name, labels: set, remove };
        const { host } = await call(session, session.hosts.setHostLabels.bind(session.hosts), request);
        printHost(print, host, (found) => `Labels of host ${safe(name)}: ${labelsOf(found) || 'none'}.`);
      }),
    );
}

function addDrain(parent: Command, context: Context): void {
  const command = parent
    .command('drain')
    .description('Gives a host no new work. What runs on it goes on.')
    .argument('<host>', 'the name of the host')
    .action((name: string) =>
      withSession(context, command, async ({ session, print }) => {
        const { host } = await call(session, session.hosts.drainHost.bind(session.hosts), { name });
        printHost(
          print,
          host,
          ({ runningOperations: running }) =>
            `Host ${safe(name)} is drained; ${running === 1 ? '1 operation goes' : `${running} operations go`} on.`,
        );
      }),
    );
}

function addUndrain(parent: Command, context: Context): void {
  const command = parent
    .command('undrain')
    .description('Gives a drained host work again.')
    .argument('<host>', 'the name of the host')
    .action((name: string) =>
      withSession(context, command, async ({ session, print }) => {
        const { host } = await call(session, session.hosts.undrainHost.bind(session.hosts), { name });
        printHost(print, host, () => `Host ${safe(name)} takes work again.`);
      }),
    );
}

function printHost(print: Running['print'], host: Host | undefined, text: (host: Host) => string): void {
  const found = Host.fromPartial(host ?? {});
  print(Host.toJSON(found), () => [text(found)]);
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
  const found = Host.fromPartial(host ?? {});
  return [
    ...pairs([
      ['Host', found.name],
      ['Zone', found.zone],
      ['Address', found.address],
      ['State', stateOf(found)],
      ['Last seen', formatTime(found.lastSeenTime)],
      ['Labels', labelsOf(found)],
      ['Running', String(found.runningOperations)],
      ['Queued', String(found.queuedOperations)],
      ['Features', found.capabilities?.features.join(' ') ?? ''],
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

/** `up`, `down, drained`. */
function stateOf({ state, drained }: Host): string {
  const word = STATES[state];
  return drained ? `${word}, drained` : word;
}

const STATES: Readonly<Record<HostState, string>> = {
  [HostState.HOST_STATE_UNSPECIFIED]: 'unknown',
  [HostState.HOST_STATE_UNKNOWN]: 'unknown',
  [HostState.HOST_STATE_UP]: 'up',
  [HostState.HOST_STATE_DOWN]: 'down',
  [HostState.UNRECOGNIZED]: 'unknown',
};

function labelsOf({ labels }: Host): string {
  return Object.entries(labels)
    .toSorted(([one], [other]) => (one < other ? -1 : 1))
    .map(([key, value]) => (value === '' ? key : `${key}=${value}`))
    .join(' ');
}

/** `KEY=VALUE` and `KEY` set a label, `KEY-` removes one. */
function parseLabels(given: readonly string[]): { set: Record<string, string>; remove: string[] } {
  const set: Record<string, string> = {};
  const remove: string[] = [];
  for (const text of given) {
    const [key = '', ...value] = text.split('=');
    if (value.length === 0 && key.endsWith('-')) remove.push(key.slice(0, -1));
    else set[key] = value.join('=');
  }
  return { set, remove };
}
