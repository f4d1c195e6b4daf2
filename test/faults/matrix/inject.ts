import { setTimeout as delay } from 'node:timers/promises';
import { processesNaming } from '../../harness/leftovers.ts';
import { until } from '../../lab/deadline.ts';
import type { Faulty } from '../../lab/faulty.ts';
import { childrenOf } from '../../lab/process.ts';
import { startPulse } from '../support/pulse.ts';
import type { Bed } from './bed.ts';
import type { Fault, NasFault, Victim } from './cases.ts';

/** What ends a fault. */
export interface Injected {
  /** To be called at once: a service that was killed is started again, as systemd does, and a NAS that hangs wakes up. */
  readonly overcome: () => Promise<void>;
  /** To be called when the operation has ended. */
  readonly heal: () => Promise<void>;
}

/** How long the NAS stands still. */
const HANG_MS = 6_000;
const nothing = (): Promise<void> => Promise.resolve();

/** @param scratch where the scratch space is, for its faults */
export async function inject(
  bed: Bed,
  { kind, what }: Fault,
  jobId: string,
  scratch: Faulty | undefined,
): Promise<Injected> {
  switch (kind) {
    case 'kill -9':
      return killVictim(bed, what, jobId);
    case 'NAS':
      return hitNas(bed.nas, what);
    case 'scratch':
      await scratch?.answer(what);
      return { overcome: nothing, heal: async () => scratch?.heal() };
  }
}

async function hitNas(nas: Faulty, what: NasFault): Promise<Injected> {
  const heal = (): Promise<void> => nas.heal();
  switch (what) {
    case 'hang':
      nas.hang();
      return {
        overcome: async () => {
          // Not a wait for something: that nothing is answered for so long is the fault.
          await delay(HANG_MS);
          await heal();
        },
        heal: nothing,
      };
    case 'gone':
      await nas.lose();
      return { overcome: nothing, heal };
    default:
      await nas.answer(what);
      return { overcome: nothing, heal };
  }
}

async function killVictim(bed: Bed, what: Victim, jobId: string): Promise<Injected> {
  const { lab, holdfast, running } = bed;
  switch (what) {
    case 'agent':
      await holdfast.agent.kill();
      return { overcome: () => holdfast.agent.start(), heal: nothing };
    case 'controller':
      await holdfast.controller.kill();
      return { overcome: () => holdfast.controller.start(), heal: nothing };
    case 'libvirtd':
      await lab.killLibvirtd();
      // A new libvirtd connects to the guest's agent after it answers.
      return { overcome: () => lab.startLibvirtd(), heal: () => running.waitReady() };
    case 'guest QEMU':
      process.kill(await pidOf(running.uuid, 'qemu-system-x86_64'), 'SIGKILL');
      return {
        overcome: nothing,
        heal: async () => {
          await until('libvirt knows of the end of QEMU', 20_000, async () =>
            (await running.state()) === 'shut off' ? true : undefined,
          );
          await running.start();
          await running.waitReady();
          await startPulse(running);
        },
      };
    case 'runner':
      process.kill(await pidOf(jobId, '/jobs/runner.ts'), 'SIGKILL');
      return { overcome: nothing, heal: nothing };
    case 'QSD':
      // Of the two of a pushed backup, the one that writes.
      process.kill(await pidOf(jobId, 'qemu-storage-daemon', '/exporter/'), 'SIGKILL');
      return { overcome: nothing, heal: nothing };
    case 'repository helper':
      process.kill(await helperOf(bed, jobId), 'SIGKILL');
      return { overcome: nothing, heal: nothing };
  }
}

/** Of the job's runner; of the agent for what that does itself, with a helper for each deletion and one for all else. */
async function helperOf({ holdfast, nas, hold }: Bed, jobId: string): Promise<number> {
  const runner = (await processesNaming(jobId)).find(({ argv }) => isProgram(argv, '/jobs/runner.ts'));
  const children = await childrenOf(runner?.pid ?? holdfast.agent.pid());
  const helpers = (await processesNaming(nas.point)).filter(
    ({ pid, argv }) => children.includes(pid) && isProgram(argv, '/repository/helper.ts'),
  );
  const held = await hold.held();
  return theOnly(
    helpers.filter(({ pid }) => helpers.length === 1 || pid === held),
    'helper',
  );
}

/** The one process that names something in its arguments, but not `without`. */
async function pidOf(named: string, program: string, without = '\0'): Promise<number> {
  const found = (await processesNaming(named)).filter(
    ({ argv }) => isProgram(argv, program) && !argv.some((each) => each.includes(without)),
  );
  return theOnly(found, program);
}

function isProgram(argv: readonly string[], program: string): boolean {
  return argv.slice(0, 3).some((each) => each.endsWith(program));
}

function theOnly(found: readonly { readonly pid: number }[], what: string): number {
  const [first] = found;
  if (first === undefined || found.length > 1)
    throw new Error(`There are ${found.length} processes ${what}.`);
  return first.pid;
}
