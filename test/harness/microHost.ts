import path from 'node:path';
import { parseAddress } from '@holdfast/common/address.ts';
import { callUnary, connectTo } from '@holdfast/common/client.ts';
import { HoldfastError } from '@holdfast/common/errors.ts';
import { AgentServiceClient } from '@holdfast/proto/holdfast/agent/v1/agent.ts';
import { until } from '../lab/deadline.ts';
import type { Lab } from '../lab/lab.ts';
import { AGENT_PORT, nodeArgv, startMicroVm, type MicroVm, type MicroVmOptions } from '../lab/microVm.ts';
import type { Client } from './client.ts';

const AGENT = path.resolve(import.meta.dirname, '../../agent/src/main.ts');

/** Generous: an emulated host on a busy machine. */
const START_MILLISECONDS = 300_000;

/** A micro-VM with an agent in it that has all its defaults, and that a controller knows. */
export interface MicroHost {
  readonly vm: MicroVm;
  readonly zone: string;
  readonly hostName: string;
  /** What the agent and its runners have logged. */
  logs(): Promise<string>;
}

/** How the agent gets to run in a micro-VM. */
export interface AgentStart {
  readonly init: NonNullable<MicroVmOptions['init']>;
  /** Returns when it listens. */
  readonly start: (vm: MicroVm, zone: string, options: readonly string[]) => Promise<void>;
  /** The command that prints its log. */
  readonly log: string;
}

/** As a program that nobody looks after. */
const ALONE: AgentStart = {
  init: 'script',
  start: async (vm, zone, options) => {
    await vm.spawn('agent', await nodeArgv(AGENT, ['--zone', zone, ...options]));
    await listening(vm);
  },
  log: 'cat /var/log/agent.log',
};

/**
 * Boots a micro-VM and adds it to a new zone of the controller, which may be starting meanwhile. It ends with the lab.
 *
 * @param prepare what is done in the micro-VM before its agent starts: an agent that gets no time is taken for one that hangs
 */
export async function startMicroHost(
  lab: Lab,
  connected: Client | Promise<Client>,
  prepare: (vm: MicroVm) => Promise<unknown>,
  agent: AgentStart = ALONE,
): Promise<MicroHost> {
  const zone = 'micro';
  const hostName = 'micro-vm';
  const vm = await startMicroVm(lab, { init: agent.init });
  const options = ['--host-name', hostName, '--listen', `127.0.0.1:${AGENT_PORT}`];
  const logs = async () =>
    vm.sh(`${agent.log}; tail -n 50 /dev/null /var/lib/holdfast/agent/jobs/*/runner.log || true`);
  // Programs that are read from the machine for the first time take longer than the agent gives them.
  const readPrograms = 'qemu-storage-daemon --version; qemu-img --version; virsh -q version --daemon';
  const start = async (): Promise<void> => {
    await vm.sh(readPrograms, START_MILLISECONDS);
    await prepare(vm);
    await agent.start(vm, zone, options);
  };
  await start().catch(async (error: unknown) => {
    throw new Error(`${String(error)} ${await logs()}`, { cause: error });
  });
  const client = await connected;
  const { zones, hosts } = client;
  await client.call(zones.createZone.bind(zones), { name: zone });
  await firstAnswer(vm);
  await until(
    'The controller knows the agent in the micro-VM',
    START_MILLISECONDS,
    () =>
      client
        .call(hosts.addHost.bind(hosts), {
          ...{ zone, name: hostName, address: vm.agentAddress, labels: {} },
        })
        .then(
          () => true,
          (error: unknown) => {
            if (error instanceof HoldfastError && error.reason === 'AGENT_UNREACHABLE') return undefined;
            throw error;
          },
        ),
    // What was asked in vain is still being answered.
    15_000,
  );
  return { vm, zone, hostName, logs };
}

/** An agent's first answer takes an emulated processor longer than a controller waits for it; the next ones do not. */
async function firstAnswer(vm: MicroVm): Promise<void> {
  const agent = connectTo(AgentServiceClient, parseAddress(vm.agentAddress));
  try {
    await callUnary(
      agent.getHost.bind(agent),
      { domain: '', withoutDomains: true },
      { correlationId: 'test', deadlineMs: START_MILLISECONDS },
    );
  } finally {
    agent.close();
  }
}

/** By its log: whoever tries to connect meanwhile takes from it what little time an emulated processor has. */
async function listening(vm: MicroVm): Promise<void> {
  await until(
    'The agent in the micro-VM listens',
    START_MILLISECONDS,
    async () => ((await vm.logOf('agent').catch(() => '')).includes('"listening"') ? true : undefined),
    1_000,
  );
}
