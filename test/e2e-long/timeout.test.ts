import assert from 'node:assert/strict';
import { Stage } from '@holdfast/proto/holdfast/v1/event.ts';
import { isStart } from '../e2e/support/events.ts';
import { busyGuest, slowly } from '../e2e/support/guests.ts';
import { useHoldfast } from '../harness/fixture.ts';
import { failed, succeeded } from '../harness/follow.ts';
import { processesNaming } from '../harness/leftovers.ts';
import { until } from '../lab/deadline.ts';
import { nothingLeft } from '../faults/support/nothingLeft.ts';

describe('a backup in which nothing moves', function () {
  this.timeout(300_000);
  const fixture = useHoldfast({ guest: busyGuest });

  it('for as long as the setting says is TIMED_OUT, but not while it is paused', async () => {
    const { guest, lab, holdfast } = fixture;
    const { client } = holdfast;
    const settings = { ...slowly, 'nas.backup.timeout.minutes': '1' };
    const qemu = (await processesNaming(guest.uuid)).filter(({ argv }) => argv[0]?.includes('qemu-system'));
    assert.equal(qemu.length, 1);
    const { id } = await client.startBackup({ zone: 'z1', domain: guest.name, settings });
    const startMs = performance.now();
    const followed = await client.follow(id, (event) => {
      if (isStart(event, Stage.STAGE_BLOCKJOB)) for (const { pid } of qemu) process.kill(pid, 'SIGSTOP');
      return undefined;
    });
    for (const { pid } of qemu) process.kill(pid, 'SIGCONT');
    const error = failed(followed);
    assert.equal(error.reason, 'TIMED_OUT', error.message);
    assert.ok(performance.now() - startMs > 60_000);
    await until('The guest is let go', 60_000, async () =>
      (await lab.virsh(['domjobinfo', guest.uuid])).includes('None') ? true : undefined,
    );
    await nothingLeft(lab, holdfast);

    const update = client.operations.updateOperation.bind(client.operations);
    const paused = await client.startBackup({ zone: 'z1', domain: guest.name, settings });
    const second = await client.follow(paused.id, async (event) => {
      if (!isStart(event, Stage.STAGE_BLOCKJOB)) return;
      const change = (value: boolean) =>
        client.call(update, { operationId: paused.id, change: { $case: 'paused', value } });
      await change(true);
      await new Promise((resolve) => setTimeout(resolve, 70_000));
      await change(false);
    });
    succeeded(second);
  });
});
