import assert from 'node:assert/strict';
import { readdir } from 'node:fs/promises';
import path from 'node:path';
import { Stage, type OperationEvent } from '@holdfast/proto/holdfast/v1/event.ts';
import { isStart } from '../e2e/support/events.ts';
import { filesDisk, restingDisk, slowly } from '../e2e/support/guests.ts';
import { useHoldfast } from '../harness/fixture.ts';
import { succeeded } from '../harness/follow.ts';
import { nothingLeft } from './support/nothingLeft.ts';

/** Of the progress, so that what it tells of has been told to libvirtd too. */
const LOOKS = 3;

describe('a backup of a running domain, when libvirtd dies', () => {
  const fixture = useHoldfast({
    // libvirt pushes the first 64 MiB of a disk before it takes a limit: it must not have ended when libvirtd dies.
    guest: { disks: [filesDisk, restingDisk(160)], writerMiBPerSecond: 1 },
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
          // A libvirtd that is away when the push of a disk ends forgets that disk. The small one has ended, and libvirtd knows it.
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
});

function isCopied({ event }: OperationEvent, target: string): boolean {
  if (event?.$case !== 'stageProgress') return false;
  const disk = event.value.disks.find((each) => each.target === target);
  return disk?.figures !== undefined && disk.figures.processedBytes === disk.figures.totalBytes;
}
