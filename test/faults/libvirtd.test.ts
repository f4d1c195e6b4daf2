import assert from 'node:assert/strict';
import { glob, readdir } from 'node:fs/promises';
import path from 'node:path';
import { Stage, type OperationEvent } from '@holdfast/proto/holdfast/v1/event.ts';
import { qemuProcess } from '@holdfast/agent/libvirt/qemuProcess.ts';
import { connectQmp } from '@holdfast/agent/qemu/qmp.ts';
import { silentLogger } from '@holdfast/common/logger.ts';
import { isStart } from '../e2e/support/events.ts';
import { filesDisk, restingDisk, slowly } from '../e2e/support/guests.ts';
import { useHoldfast } from '../harness/fixture.ts';
import { failed, succeeded } from '../harness/follow.ts';
import { until } from '../lab/deadline.ts';
import type { Guest } from '../lab/guest.ts';
import { nothingLeft } from './support/nothingLeft.ts';

/** Of the progress, so that what it tells of has been told to libvirtd too. */
const LOOKS = 3;

describe('a backup of a running domain, when libvirtd dies', () => {
  const fixture = useHoldfast({
    // libvirt pushes the first 64 MiB of a disk before it takes a limit: it must not have ended when libvirtd dies.
    guest: {
      disks: [filesDisk, restingDisk(80), { ...restingDisk(112), target: 'vdc' }],
      writerMiBPerSecond: 1,
    },
    lab: { mounts: 'shared' },
  });
  afterEach(() => nothingLeft(fixture.lab, fixture.holdfast));

  for (const transport of ['pull', 'push']) {
    it(`and is started again, goes on: ${transport}`, async () => {
      const { guest, holdfast, lab } = fixture;
      const { client } = holdfast;
      const settings = { ...slowly, 'nas.backup.transport': transport };
      let looks = 0;
      const followed = await client.takeBackup(
        { zone: 'z1', domain: guest.name, settings },
        async (event) => {
          // One that is killed right as the push of a disk ends forgets it. The small one has ended, and libvirtd knows it.
          if (transport === 'push' ? !isCopied(event, 'vda') : !isStart(event, Stage.STAGE_BLOCKJOB)) return;
          if (++looks !== (transport === 'push' ? LOOKS : 1)) return;
          await lab.killLibvirtd();
          await lab.startLibvirtd();
          const [operationId = ''] = await readdir(path.join(holdfast.agent.runtimeDirectory, 'jobs'));
          // It is still steered by way of the new one.
          const { operations } = client;
          const change = { $case: 'bandwidthLimitMibps', value: 0n } as const;
          await client.call(operations.updateOperation.bind(operations), { operationId, change });
        },
      );
      const operation = succeeded(followed);
      assert.equal((await client.getBackup(operation.backupId)).manifest?.transport, transport);
      succeeded(await client.verifyBackup({ backupId: operation.backupId }));
      await guest.writeFile('/data/after.txt', transport);
    });
  }

  it("and is started again without knowing that it was told of a disk's end, fails and says so", async () => {
    const { guest, holdfast, lab } = fixture;
    const { client } = holdfast;
    const settings = { ...slowly, 'nas.backup.transport': 'push' };
    let looks = 0;
    const followed = await client.takeBackup({ zone: 'z1', domain: guest.name, settings }, async (event) => {
      if (!isCopied(event, 'vda') || ++looks !== LOOKS) return;
      await lab.killLibvirtd();
      await dismissNext(guest);
      await lab.startLibvirtd();
    });
    assert.ok(looks > LOOKS);
    const error = failed(followed);
    assert.equal(error.reason, 'QEMU_FAILED');
    assert.match(error.message, /while libvirtd was away.*Take the backup again/);
    await nothingLeft(lab, holdfast);
    succeeded(await client.takeBackup({ zone: 'z1', domain: guest.name }));
  });
});

/**
 * Does in a libvirtd's place, which is away, what it does when the next disk's job has ended: tells QEMU that this is known.
 * As if it had been killed before it made a note of it itself.
 */
async function dismissNext({ uuid }: Guest): Promise<void> {
  const qemu = await qemuProcess(uuid);
  const [socket = ''] = await Array.fromAsync(
    glob(`/proc/${qemu}/root/var/lib/libvirt/qemu/domain-*/monitor.sock`),
  );
  const qmp = await connectQmp(socket, silentLogger, AbortSignal.timeout(60_000));
  try {
    const id = await until('The job of a disk ends', 60_000, async () => {
      const jobs = (await qmp.execute('query-jobs')) as readonly { id: string; status: string }[];
      return jobs.find(({ status }) => status === 'concluded')?.id;
    });
    await qmp.execute('job-dismiss', { id });
  } finally {
    qmp.close();
  }
}

function isCopied({ event }: OperationEvent, target: string): boolean {
  if (event?.$case !== 'stageProgress') return false;
  const disk = event.value.disks.find((each) => each.target === target);
  return disk?.figures !== undefined && disk.figures.processedBytes === disk.figures.totalBytes;
}
