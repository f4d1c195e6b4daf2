import assert from 'node:assert/strict';
import { Stage } from '@holdfast/proto/holdfast/v1/event.ts';
import type { Client } from '../harness/client.ts';
import { useHoldfast } from '../harness/fixture.ts';
import { succeeded, watch, type Followed } from '../harness/follow.ts';
import { until } from '../lab/deadline.ts';
import { requireNoGaps, withoutProgress, isStart } from './support/events.ts';
import { busyGuest, slowly } from './support/guests.ts';

describe('a backup in the middle', () => {
  const fixture = useHoldfast({ guest: busyGuest });

  it('goes on when the agent is killed, and the controller finds it again', async () => {
    const { guest, holdfast } = fixture;
    const { client, agent } = holdfast;
    const { id } = await client.startBackup({ zone: 'z1', domain: guest.name, settings: slowly });
    const followed = await client.follow(id, async (event) => {
      if (!isStart(event, Stage.STAGE_CONVERT)) return;
      await agent.kill();
      await agent.start();
    });
    await requireWhole(client, followed);
  });

  it('goes on when the controller is killed, and is found by the next one', async () => {
    const { guest, holdfast } = fixture;
    const { client, controller } = holdfast;
    const { id } = await client.startBackup({ zone: 'z1', domain: guest.name, settings: slowly });
    const broken = watch(client.operations, id, 0n, async (event) => {
      if (isStart(event, Stage.STAGE_CONVERT)) await controller.kill();
    });
    await assert.rejects(broken, { reason: 'AGENT_UNREACHABLE' });
    await controller.start();
    const followed = await until('The new controller answers', 20_000, () =>
      client.follow(id).catch(() => undefined),
    );
    await requireWhole(client, followed);
  });

  it('ends well when the agent is stopped and started as an upgrade does', async () => {
    const { guest, holdfast } = fixture;
    const { client, agent } = holdfast;
    const { id } = await client.startBackup({ zone: 'z1', domain: guest.name, settings: slowly });
    const followed = await client.follow(id, async (event) => {
      if (!isStart(event, Stage.STAGE_CONVERT)) return;
      await agent.kill('SIGTERM');
      await agent.start();
    });
    await requireWhole(client, followed);
  });
});

/** No event is missing or there twice, and the backup is good. */
async function requireWhole(client: Client, followed: Followed): Promise<void> {
  const operation = succeeded(followed);
  requireNoGaps(withoutProgress(followed.events));
  succeeded(await client.verifyBackup({ backupId: operation.backupId }));
  succeeded(await client.deleteBackup(operation.backupId));
}
