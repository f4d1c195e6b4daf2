import { mkdir } from 'node:fs/promises';
import path from 'node:path';
import { execa } from 'execa';
import { AddRepositoryRequest, RepositoryType } from '@holdfast/proto/holdfast/v1/repository.ts';
import type { Lab } from '../lab/lab.ts';
import { connect, type Client } from './client.ts';
import { killNaming } from './leftovers.ts';
import { startService, type Service } from './service.ts';

const ROOT = path.resolve(import.meta.dirname, '../..');
const CONTROLLER = path.join(ROOT, 'controller/src/main.ts');

export interface HoldfastOptions {
  /** One agent for each; default one, in zone `z1`. Agents may share a lab. */
  readonly agents?: readonly AgentPlace[];
  readonly logLevel?: 'debug' | 'info';
  /** Where the controller listens besides its socket, such as `127.0.0.1:7600`. */
  readonly listen?: readonly string[];
  /** The URL of a PostgreSQL database for the state; SQLite when left out. */
  readonly databaseUrl?: string;
  /** How many controllers work on it; default 1. */
  readonly controllers?: number;
  /** How long `client` waits for each call; default a minute. */
  readonly clientDeadlineMs?: number;
}

export interface AgentPlace {
  readonly zone: string;
  /** Default `host-1`, `host-2`... */
  readonly hostName?: string;
  /** Default the lab of the controller. */
  readonly lab?: Lab;
  /** Runs it inside of the lab, where libvirt's files are at the paths that libvirt names. */
  readonly inside?: boolean;
  /** Added to the agent's environment, which its runners inherit. */
  readonly env?: Readonly<Record<string, string>>;
}

export interface AgentService extends Service {
  readonly zone: string;
  readonly hostName: string;
  /** Has `jobs/<operation id>/runner.log`. */
  readonly stateDirectory: string;
  readonly runtimeDirectory: string;
  readonly scratchDirectory: string;
}

/** A controller with its agents, zones, hosts and a repository for each zone, all real processes. */
export interface Holdfast extends AsyncDisposable {
  /** Holds everything; in `shared` of the lab. */
  readonly directory: string;
  /** The first controller. */
  readonly controller: Service;
  readonly controllers: readonly Service[];
  /** The first agent. */
  readonly agent: AgentService;
  readonly agents: readonly AgentService[];
  /** Calls the first controller. */
  readonly client: Client;
  /** One for each controller. */
  readonly clients: readonly Client[];
  /** The directory of the repository `nas-<zone>`; of the first zone when left out. */
  readonly repository: (zone?: string) => string;
  /** A new empty directory for a restore. */
  readonly restoreDirectory: () => Promise<string>;
  /** What controller, agents and runners logged, for a failed test. */
  readonly logs: () => Promise<string>;
}

/** Starts all of it, outside of the lab's namespaces. Disposal kills everything, runners included. */
export async function startHoldfast(lab: Lab, options: HoldfastOptions = {}): Promise<Holdfast> {
  // Short: a unix socket's path has at most 107 bytes, and a job's is long already.
  const directory = path.join(lab.directory, 'shared', 'h');
  const logLevel = options.logLevel ?? 'info';
  await mkdir(directory, { mode: 0o711 });
  await using starting = new AsyncDisposableStack();
  starting.defer(() => killNaming(directory));

  const masterKey = path.join(directory, 'master.key');
  await execa(process.execPath, [CONTROLLER, '--create-master-key', masterKey]);
  const controllers: Service[] = [];
  for (let index = 0; index < (options.controllers ?? 1); index += 1) {
    controllers.push(starting.use(await startController(directory, index, masterKey, options)));
  }
  const clients = controllers.map(({ address }) => starting.use(connect(address, options.clientDeadlineMs)));
  const [controller] = controllers;
  const [client] = clients;
  if (controller === undefined || client === undefined) throw new Error('At least one controller is needed.');
  const agents: AgentService[] = [];
  for (const [index, place] of (options.agents ?? [{ zone: 'z1' }]).entries()) {
    agents.push(starting.use(await startAgent(directory, { lab, ...place }, index, logLevel)));
  }
  const [agent] = agents;
  if (agent === undefined) throw new Error('At least one agent is needed.');
  const repository = (zone = agent.zone) => path.join(directory, 'nas', zone);
  await register(client, agents, repository);

  let restores = 0;
  const running = starting.move();
  return {
    ...{ directory, controller, controllers, agent, agents, client, clients, repository },
    restoreDirectory: async () => {
      const made = path.join(directory, `restore-${++restores}`);
      await mkdir(made);
      return made;
    },
    logs: async () => {
      const logs = await Promise.all([...controllers, ...agents].map((service) => service.log()));
      // The newest last, since the end of it all is what is looked at.
      const found = await execa('find', [directory, '-name', 'runner.log', '-printf', '%T@ %p\n']);
      const files = found.stdout.split('\n').filter(Boolean).sort();
      const paths = files.map((line) => line.slice(line.indexOf(' ') + 1));
      const runners = await execa('tail', ['-n', '50', '/dev/null', ...paths]);
      return [...logs, runners.stdout].join('\n');
    },
    [Symbol.asyncDispose]: () => running.disposeAsync(),
  };
}

async function startController(
  root: string,
  index: number,
  masterKey: string,
  { logLevel = 'info', listen = [], databaseUrl }: HoldfastOptions,
): Promise<Service> {
  const directory = path.join(root, index === 0 ? 'c' : `c${index}`);
  await mkdir(directory, { mode: 0o700 });
  const socket = path.join(directory, 'c.sock');
  return startService({
    name: index === 0 ? 'controller' : `controller-${index + 1}`,
    directory,
    address: { kind: 'unix', path: socket },
    env: databaseUrl === undefined ? {} : { HOLDFAST_DATABASE_URL: databaseUrl },
    argv: [
      CONTROLLER,
      ...['--listen', `unix://${socket}`, ...listen],
      ...['--state-directory', path.join(directory, 'state'), '--master-key-file', masterKey],
      ...['--log-level', logLevel],
    ],
  });
}

async function startAgent(
  root: string,
  place: AgentPlace & { readonly lab: Lab },
  index: number,
  logLevel: string,
): Promise<AgentService> {
  const { zone, lab, inside = false, env = {}, hostName = `host-${index + 1}` } = place;
  const directory = path.join(root, `a${index}`);
  await mkdir(directory, { mode: 0o711 });
  const socket = path.join(directory, 'a.sock');
  const stateDirectory = path.join(directory, 's');
  const runtimeDirectory = path.join(directory, 'r');
  const scratchDirectory = path.join(directory, 'x');
  const service = await startService({
    name: hostName,
    directory,
    env,
    inside: inside ? lab : undefined,
    address: { kind: 'unix', path: socket },
    argv: [
      path.join(ROOT, 'agent/src/main.ts'),
      ...['--zone', zone, '--host-name', hostName, '--listen', `unix://${socket}`],
      ...['--libvirt-uri', lab.libvirtUri, '--state-directory', stateDirectory],
      ...['--runtime-directory', runtimeDirectory, '--scratch-directory', scratchDirectory],
      ...['--log-level', logLevel],
    ],
  });
  return { ...service, zone, hostName, stateDirectory, runtimeDirectory, scratchDirectory };
}

async function register(
  client: Client,
  agents: readonly AgentService[],
  repository: (zone: string) => string,
): Promise<void> {
  const { zones, hosts, repositories } = client;
  for (const zone of new Set(agents.map((agent) => agent.zone))) {
    await client.call(zones.createZone.bind(zones), { name: zone });
    for (const agent of agents.filter((each) => each.zone === zone)) {
      const address = agent.address.kind === 'unix' ? `unix://${agent.address.path}` : '';
      await client.call(hosts.addHost.bind(hosts), {
        ...{ zone, name: agent.hostName, address, labels: {} },
      });
    }
    await mkdir(repository(zone), { recursive: true });
    const request = AddRepositoryRequest.fromPartial({
      zone,
      name: `nas-${zone}`,
      type: RepositoryType.REPOSITORY_TYPE_LOCAL,
      path: repository(zone),
    });
    await client.call(repositories.addRepository.bind(repositories), request);
  }
}
