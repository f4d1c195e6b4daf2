import assert from 'node:assert/strict';
import { readdir, rm } from 'node:fs/promises';
import path from 'node:path';
import { execa } from 'execa';
import { Stage } from '@holdfast/proto/holdfast/v1/event.ts';
import { isStart } from '../e2e/support/events.ts';
import { busyGuest, slowly } from '../e2e/support/guests.ts';
import { useHoldfast } from '../harness/fixture.ts';
import { failed, succeeded } from '../harness/follow.ts';
import { killNaming } from '../harness/leftovers.ts';
import { mountsBelow } from '../lab/directory.ts';
import { nothingLeft } from './support/nothingLeft.ts';

describe('a host that loses power in the middle of a backup', () => {
  const fixture = useHoldfast({ guest: busyGuest, lab: { mounts: 'shared' } });

  /** All processes of the host end at once, mounts and tmpfs are gone; then it starts again, with its guests off. */
  const loseAndRegainPower = async (): Promise<void> => {
    const { holdfast, lab } = fixture;
    const { agent } = holdfast;
    await Promise.all([agent.kill(), killNaming(agent.directory), lab.crash()]);
    await killNaming(agent.directory);
    for (const mount of await mountsBelow(agent.directory)) await execa('umount', ['--lazy', mount]);
    await rm(agent.runtimeDirectory, { recursive: true });
    await lab.boot();
    await agent.start();
  };

  for (const transport of ['pull', 'push']) {
    it(`ends it as failed, leaves nothing of it, and takes the next one: ${transport}`, async () => {
      const { guest, holdfast, lab } = fixture;
      const { client, agent } = holdfast;
      const settings = { ...slowly, 'nas.backup.quiesce': 'required', 'nas.backup.transport': transport };
      const { id } = await client.startBackup({ zone: 'z1', domain: guest.name, settings });
      const followed = await client.follow(id, async (event) => {
        if (!isStart(event, Stage.STAGE_BLOCKJOB)) return;
        assert.notDeepEqual(await readdir(path.join(agent.stateDirectory, 'locks')), []);
        assert.match((await readdir(path.join(holdfast.repository(), guest.uuid))).join(), /partial/);
        await loseAndRegainPower();
      });
      assert.equal(failed(followed).reason, 'RUNNER_DIED');
      assert.deepEqual(followed.operation.warnings, []);
      await nothingLeft(lab, holdfast);
      await guest.start();
      await guest.waitReady();
      const { backupId } = succeeded(await client.takeBackup({ zone: 'z1', domain: guest.name }));
      succeeded(await client.verifyBackup({ backupId }));
    });
  }
});
