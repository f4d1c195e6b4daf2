import assert from 'node:assert/strict';
import { readdir } from 'node:fs/promises';
import path from 'node:path';
import { Stage } from '@holdfast/proto/holdfast/v1/event.ts';
import { isStart } from '../e2e/support/events.ts';
import { busyGuest, slowly } from '../e2e/support/guests.ts';
import { nothingLeft } from '../faults/support/nothingLeft.ts';
import { useHoldfast } from '../harness/fixture.ts';
import { failed, succeeded } from '../harness/follow.ts';

describe('a backup of a running domain whose libvirtd dies and stays away', () => {
  const fixture = useHoldfast({ guest: busyGuest });

  it('fails and says so, and is undone once there is one again', async () => {
    const { guest, holdfast, lab } = fixture;
    const { client, agent } = holdfast;
    const request = { zone: 'z1', domain: guest.name, settings: slowly };
    const followed = await client.takeBackup(request, async (event) => {
      if (!isStart(event, Stage.STAGE_BLOCKJOB)) return;
      await lab.killLibvirtd();
      const [operationId = ''] = await readdir(path.join(agent.runtimeDirectory, 'jobs'));
      const { operations } = client;
      const change = { $case: 'bandwidthLimitMibps', value: 0n } as const;
      await client.call(operations.updateOperation.bind(operations), { operationId, change });
    });
    assert.equal(failed(followed).reason, 'LIBVIRT_FAILED');
    assert.deepEqual([...new Set(followed.operation.warnings.map(({ reason }) => reason))], ['LEFTOVERS']);
    await lab.startLibvirtd();
    assert.doesNotMatch(await lab.virsh(['domjobinfo', guest.uuid]), /None/);
    // Within a minute of its own accord, or at the agent's start.
    await agent.kill();
    await agent.start();
    await nothingLeft(lab, holdfast);
    succeeded(await client.takeBackup({ zone: 'z1', domain: guest.name }));
  });
});
