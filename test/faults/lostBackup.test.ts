import assert from 'node:assert/strict';
import { readdir, readFile, readlink } from 'node:fs/promises';
import path from 'node:path';
import { execa } from 'execa';
import type { Operation } from '@holdfast/proto/holdfast/v1/operation.ts';
import { qemuProcess } from '@holdfast/agent/libvirt/qemuProcess.ts';
import { filesDisk, restingDisk } from '../e2e/support/guests.ts';
import { useHoldfast } from '../harness/fixture.ts';
import { failed, succeeded } from '../harness/follow.ts';
import { processesNaming } from '../harness/leftovers.ts';
import { until } from '../lab/deadline.ts';
import { nothingLeft } from './support/nothingLeft.ts';

const STOPPER = path.join(import.meta.dirname, 'support/stopper.ts');
/** Where libvirt remembers what domains do, inside the lab. */
const STATUS = '/run/libvirt/qemu';

/** The agent's runners stop right before they begin a backup; QEMU is stopped meanwhile, so that libvirtd is in the middle. */
describe('a domain whose libvirtd was killed as it began a backup', () => {
  const fixture = useHoldfast({
    // Of a disk 64 MiB and more are pushed before a limit holds.
    guest: { disks: [filesDisk, restingDisk(192)], writerMiBPerSecond: 1 },
    lab: { mounts: 'shared' },
    holdfast: {
      agents: [
        {
          zone: 'z1',
          env: { NODE_OPTIONS: `--import=${STOPPER}`, HOLDFAST_TEST_STOP_AT: 'backup-begin' },
        },
      ],
    },
  });

  const inside = async (script: string): Promise<string> => {
    const [program = '', ...args] = fixture.lab.enter(['sh', '-c', script]);
    return (await execa(program, args, { timeout: 20_000 })).stdout;
  };
  const qemu = async (): Promise<number> => {
    const pid = await qemuProcess(fixture.guest.uuid);
    assert.ok(pid !== undefined);
    return pid;
  };
  const begin = async (transport: string, settings: Record<string, string> = {}): Promise<Operation> =>
    fixture.holdfast.client.startBackup({
      zone: 'z1',
      domain: fixture.guest.name,
      settings: { ...settings, 'nas.backup.transport': transport },
    });
  const stoppedRunner = ({ id }: Operation): Promise<number> =>
    until('The runner stops', 30_000, async () => {
      const runners = (await processesNaming(id)).filter(({ argv }) => argv[1]?.endsWith('/runner.ts'));
      const pid = runners[0]?.pid;
      if (pid === undefined) return undefined;
      return /^State:\tT/m.test(await readFile(`/proc/${pid}/status`, 'utf8')) ? pid : undefined;
    });
  /** The files of a job that QEMU has open. */
  const heldByQemu = async ({ id }: Operation): Promise<readonly string[]> => {
    const directory = `/proc/${await qemu()}/fd`;
    const paths = await Promise.all(
      (await readdir(directory)).map((file) => readlink(path.join(directory, file)).catch(() => '')),
    );
    return paths.filter((each) => each.includes(id));
  };
  /** Begins a backup, with QEMU stopped from the moment on that libvirtd has told it nothing yet. */
  const beginWithoutQemu = async (transport: string): Promise<Operation> => {
    const operation = await begin(transport, { 'nas.backup.bandwidth.limit.mbps': '32' });
    const runner = await stoppedRunner(operation);
    process.kill(await qemu(), 'SIGSTOP');
    process.kill(runner, 'SIGCONT');
    await until('libvirtd begins', 30_000, async () =>
      (await inside(`cat ${STATUS}/*.xml`)).includes("async='backup'") ? true : undefined,
    );
    return operation;
  };
  const killLibvirtd = async (): Promise<void> => {
    await fixture.lab.killLibvirtd();
    process.kill(await qemu(), 'SIGCONT');
  };
  /** It failed and says so, nothing of it is in QEMU, and the next one is refused at once with what helps. */
  const requireGivenUp = async (operation: Operation): Promise<void> => {
    const { guest, holdfast } = fixture;
    const followed = await holdfast.client.follow(operation.id);
    failed(followed);
    assert.deepEqual(await heldByQemu(operation), []);
    const [warning, ...more] = followed.operation.warnings.filter(({ reason }) => reason === 'LEFTOVERS');
    assert.match(warning?.message ?? '', new RegExp(`${guest.uuid}.*Shut the domain down, restart libvirtd`));
    assert.deepEqual(more, []);
    await guest.writeFile('/data/after.txt', operation.id);
    const next = failed(await holdfast.client.follow((await begin('pull')).id));
    assert.equal(next.reason, 'DOMAIN_STATE');
    assert.match(next.message, new RegExp(`${guest.name}.*Shut the domain down, restart libvirtd`));
  };
  const nextSucceeds = async (transport: string): Promise<void> => {
    const { holdfast, lab } = fixture;
    const operation = await begin(transport);
    process.kill(await stoppedRunner(operation), 'SIGCONT');
    succeeded(await holdfast.client.follow(operation.id));
    // The lost one is tried again within a minute, or at the agent's start.
    await holdfast.agent.kill();
    await holdfast.agent.start();
    await nothingLeft(lab, holdfast);
  };

  for (const transport of ['pull', 'push']) {
    it(`is told of, and backed up again once both were started anew: ${transport}`, async () => {
      const { guest, lab } = fixture;
      const operation = await beginWithoutQemu(transport);
      await killLibvirtd();
      await lab.startLibvirtd();
      await requireGivenUp(operation);
      await guest.destroy();
      await lab.killLibvirtd('SIGTERM');
      await lab.startLibvirtd();
      await guest.start();
      await guest.waitReady();
      await nextSucceeds(transport);
    });

    it(`has nothing left in QEMU, which had begun already, and can be freed without a stop: ${transport}`, async () => {
      const { lab } = fixture;
      const operation = await beginWithoutQemu(transport);
      // libvirtd cannot remember what it does from now on, as if it were killed in between.
      await inside(`mount --bind ${STATUS} ${STATUS} && mount -o remount,bind,ro ${STATUS}`);
      process.kill(await qemu(), 'SIGCONT');
      await until('QEMU begins', 30_000, async () =>
        (await heldByQemu(operation)).length === 2 ? true : undefined,
      );
      await lab.killLibvirtd();
      await inside(`umount ${STATUS}`);
      await lab.startLibvirtd();
      await requireGivenUp(operation);
      // As docs/reliability.md has it.
      await lab.killLibvirtd('SIGTERM');
      await inside(`sed -i "/<job /s/async='backup'/async='none'/" ${STATUS}/*.xml`);
      await lab.startLibvirtd();
      await nextSucceeds(transport);
    });
  }
});
