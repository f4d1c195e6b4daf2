import { signalProcess } from '@holdfast/agent/process/identity.ts';
import { processesNaming, type Leftover } from '../../harness/leftovers.ts';
import { until } from '../../lab/deadline.ts';
import { childrenOf } from '../../lab/process.ts';
import type { Bed } from './bed.ts';
import type { Victim } from './decide.ts';

/** What has to be done after a kill. */
export interface Killed {
  /** False when there was no such process at the time. */
  readonly hit: boolean;
  /** Starts what does not start by itself; to be called at once, as systemd does. */
  readonly restart: () => Promise<void>;
  /** To be called when the operation has ended. */
  readonly heal: () => Promise<void>;
}

const nothing = (): Promise<void> => Promise.resolve();

/** Kills a process with SIGKILL. */
export async function kill(bed: Bed, victim: Victim, jobId: string): Promise<Killed> {
  const { lab, holdfast, running } = bed;
  const one = (found: readonly Leftover[]): Killed => {
    const [first] = found;
    if (first !== undefined) signalProcess(first.pid, 'SIGKILL');
    return { hit: first !== undefined, restart: nothing, heal: nothing };
  };
  switch (victim) {
    case 'agent':
      await holdfast.agent.kill();
      return { hit: true, restart: () => holdfast.agent.start(), heal: nothing };
    case 'controller':
      await holdfast.controller.kill();
      return { hit: true, restart: () => holdfast.controller.start(), heal: nothing };
    case 'libvirtd':
      await lab.killLibvirtd();
      return {
        hit: true,
        restart: async () => {
          await lab.startLibvirtd();
          // It takes a moment to find the guest's agent again.
          await running.waitReady();
        },
        heal: nothing,
      };
    case 'guest QEMU': {
      const killed = one(await programs(running.uuid, 'qemu-system-x86_64'));
      return {
        ...killed,
        heal: async () => {
          await until('libvirt knows of the end of QEMU', 20_000, async () =>
            (await running.state()) === 'shut off' ? true : undefined,
          );
          await bed.restartGuest();
        },
      };
    }
    case 'runner':
      return one(await programs(jobId, '/jobs/runner.ts'));
    case 'storage daemon':
      // Of the two of a pushed backup the one that writes: the guest itself writes through the other one.
      return one((await programs(jobId, 'qemu-storage-daemon')).filter(({ argv }) => !isExporter(argv)));
    case 'repository helper': {
      const [runner] = await programs(jobId, '/jobs/runner.ts');
      // Of the agent for what that does itself.
      const children = await childrenOf(runner?.pid ?? holdfast.agent.pid());
      const helpers = await programs(holdfast.repository(), '/repository/helper.ts');
      return one(helpers.filter(({ pid }) => children.includes(pid)));
    }
  }
}

function isExporter(argv: readonly string[]): boolean {
  return argv.some((argument) => argument.includes('/exporter/'));
}

async function programs(named: string, program: string): Promise<readonly Leftover[]> {
  const found = await processesNaming(named);
  return found.filter(({ argv }) => argv.slice(0, 3).some((argument) => argument.endsWith(program)));
}
