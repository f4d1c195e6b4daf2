import assert from 'node:assert/strict';
import { readdir } from 'node:fs/promises';
import { Stage } from '@holdfast/proto/holdfast/v1/event.ts';
import { isStart } from '../e2e/support/events.ts';
import { busyGuest, slowly } from '../e2e/support/guests.ts';
import { useHoldfast } from '../harness/fixture.ts';
import { failed, succeeded, type Followed } from '../harness/follow.ts';
import { processesNaming } from '../harness/leftovers.ts';

/** Kills the processes with a text in their arguments, and proves that there were some. */
async function kill(text: string, also: string): Promise<void> {
  const found = (await processesNaming(text)).filter(({ argv }) => argv.join(' ').includes(also));
  assert.ok(found.length > 0, `no process names ${text} and ${also}`);
  for (const { pid } of found) process.kill(pid, 'SIGKILL');
}

describe('what is killed in the middle of a backup', () => {
  const fixture = useHoldfast({ guest: busyGuest });

  const backupWith = async (stage: Stage, fault: (jobId: string) => Promise<void>): Promise<Followed> => {
    const { guest, holdfast } = fixture;
    const { id } = await holdfast.client.startBackup({
      zone: 'z1',
      domain: guest.name,
      settings: { ...slowly, 'nas.backup.quiesce': 'required', 'nas.backup.compression.enabled': 'true' },
    });
    return holdfast.client.follow(id, (event) => (isStart(event, stage) ? fault(id) : undefined));
  };
  const nothingLeft = async (jobId: string): Promise<void> => {
    const { guest, holdfast, lab } = fixture;
    assert.deepEqual(await processesNaming(jobId), []);
    const found = await readdir(holdfast.repository(), { recursive: true });
    assert.deepEqual(
      found.filter((name) => name.includes('.partial')),
      [],
    );
    assert.deepEqual(await readdir(holdfast.agent.scratchDirectory), []);
    if ((await guest.state()) !== 'running') return;
    assert.match(await lab.virsh(['domjobinfo', guest.uuid]), /None/);
    // A frozen file system would hold this for ever.
    await guest.writeFile('/data/after.txt', jobId);
  };

  for (const stage of [Stage.STAGE_PREPARE, Stage.STAGE_QUIESCE, Stage.STAGE_BLOCKJOB]) {
    it(`the runner, at stage ${stage}: everything is undone`, async () => {
      const followed = await backupWith(stage, (jobId) => kill(jobId, 'runner.ts'));
      assert.equal(failed(followed).reason, 'RUNNER_DIED');
      await nothingLeft(followed.operation.id);
    });
  }

  it('qemu-storage-daemon: the backup fails and everything is undone', async () => {
    const followed = await backupWith(Stage.STAGE_BLOCKJOB, (jobId) => kill(jobId, 'qemu-storage-daemon'));
    assert.equal(failed(followed).reason, 'QEMU_FAILED');
    await nothingLeft(followed.operation.id);
  });

  it('nothing: the next backup succeeds', async () => {
    const { guest, holdfast } = fixture;
    succeeded(await holdfast.client.takeBackup({ zone: 'z1', domain: guest.name }));
  });

  it('a second backup of the domain is DOMAIN_BUSY', async () => {
    const { guest, holdfast } = fixture;
    const followed = await backupWith(Stage.STAGE_BLOCKJOB, async (jobId) => {
      await assert.rejects(holdfast.client.startBackup({ zone: 'z1', domain: guest.name }), {
        reason: 'DOMAIN_BUSY',
      });
      const { operations } = holdfast.client;
      await holdfast.client.call(operations.cancelOperation.bind(operations), { operationId: jobId });
    });
    assert.equal(failed(followed).reason, 'CANCELLED');
    await nothingLeft(followed.operation.id);
  });

  it('a paused domain is DOMAIN_STATE', async () => {
    const { guest, holdfast } = fixture;
    await guest.suspend();
    await assert.rejects(holdfast.client.startBackup({ zone: 'z1', domain: guest.name }), {
      reason: 'DOMAIN_STATE',
    });
    await guest.resume();
  });

  it('the domain: DOMAIN_STOPPED', async () => {
    const followed = await backupWith(Stage.STAGE_BLOCKJOB, () => fixture.guest.destroy());
    assert.equal(failed(followed).reason, 'DOMAIN_STOPPED');
    await nothingLeft(followed.operation.id);
  });

  it('a stopped domain that is started meanwhile: DOMAIN_STARTED', async () => {
    const followed = await backupWith(Stage.STAGE_BLOCKJOB, () => fixture.guest.start());
    assert.equal(failed(followed).reason, 'DOMAIN_STARTED');
    await fixture.guest.destroy();
    await nothingLeft(followed.operation.id);
  });
});
