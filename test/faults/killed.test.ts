import assert from 'node:assert/strict';
import { Stage } from '@holdfast/proto/holdfast/v1/event.ts';
import { isStart } from '../e2e/support/events.ts';
import { busyGuest, slowly } from '../e2e/support/guests.ts';
import { useHoldfast } from '../harness/fixture.ts';
import { failed, succeeded, type Followed } from '../harness/follow.ts';
import { processesNaming } from '../harness/leftovers.ts';
import { nothingLeft } from './support/nothingLeft.ts';

/** Kills the storage daemon of a job, and proves that there was one. */
async function killStorageDaemon(jobId: string): Promise<void> {
  const found = (await processesNaming(jobId)).filter(({ argv }) => argv[0] === 'qemu-storage-daemon');
  assert.equal(found.length, 1);
  for (const { pid } of found) process.kill(pid, 'SIGKILL');
}

describe('a backup of a running domain that loses', () => {
  const fixture = useHoldfast({ guest: busyGuest });
  const losing = async (lose: (jobId: string) => Promise<void>): Promise<Followed> => {
    const { guest, holdfast } = fixture;
    const { id } = await holdfast.client.startBackup({
      zone: 'z1',
      domain: guest.name,
      settings: { ...slowly, 'nas.backup.quiesce': 'required', 'nas.backup.compression.enabled': 'true' },
    });
    return holdfast.client.follow(id, (event) =>
      isStart(event, Stage.STAGE_BLOCKJOB) ? lose(id) : undefined,
    );
  };
  afterEach(() => nothingLeft(fixture.lab, fixture.holdfast));

  it('qemu-storage-daemon is QEMU_FAILED, and the guest goes on', async () => {
    const { guest } = fixture;
    assert.equal(failed(await losing(killStorageDaemon)).reason, 'QEMU_FAILED');
    // A frozen file system would hold this for ever.
    await guest.writeFile('/data/after.txt', 'still here');
  });

  it('its place to a second one does not: that is DOMAIN_BUSY', async () => {
    const { client } = fixture.holdfast;
    const { guest } = fixture;
    const first = await losing(async (jobId) => {
      await assert.rejects(client.startBackup({ zone: 'z1', domain: guest.name }), { reason: 'DOMAIN_BUSY' });
      const { operations } = client;
      await client.call(operations.cancelOperation.bind(operations), { operationId: jobId });
    });
    assert.equal(failed(first).reason, 'CANCELLED');
    succeeded(await client.takeBackup({ zone: 'z1', domain: guest.name }));
  });

  it('the domain itself is DOMAIN_STOPPED', async () => {
    assert.equal(failed(await losing(() => fixture.guest.destroy())).reason, 'DOMAIN_STOPPED');
  });
});
