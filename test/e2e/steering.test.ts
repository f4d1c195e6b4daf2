import assert from 'node:assert/strict';
import { access, readdir } from 'node:fs/promises';
import path from 'node:path';
import { Stage } from '@holdfast/proto/holdfast/v1/event.ts';
import {
  OperationState,
  type Operation,
  type UpdateOperationRequest,
} from '@holdfast/proto/holdfast/v1/operation.ts';
import type { Client } from '../harness/client.ts';
import { useHoldfast } from '../harness/fixture.ts';
import { failed, succeeded } from '../harness/follow.ts';
import { processesNaming } from '../harness/leftovers.ts';
import { until } from '../lab/deadline.ts';
import { isStart, kindsOf, requireNoGaps } from './support/events.ts';
import { busyGuest, slowly } from './support/guests.ts';

describe('steering a backup', () => {
  const fixture = useHoldfast({ guest: busyGuest });

  it('changes the limit in the middle', async () => {
    const { guest, holdfast } = fixture;
    const { client } = holdfast;
    const { id } = await client.startBackup({ zone: 'z1', domain: guest.name, settings: slowly });
    const followed = await client.follow(id, async (event) => {
      if (isStart(event, Stage.STAGE_BLOCKJOB))
        await update(client, id, { $case: 'bandwidthLimitMibps', value: 0n });
    });
    assert.equal(succeeded(followed).bandwidthLimitMibps, 0n);
    requireNoGaps(followed.events);
    const limits = followed.events.flatMap(({ event }) =>
      event?.$case === 'bandwidthApplied' ? [event.value.limitMibps] : [],
    );
    assert.equal(limits.at(-1), 0n);
  });

  it('pauses, stands still, and resumes', async () => {
    const { guest, holdfast } = fixture;
    const { client } = holdfast;
    const { id } = await client.startBackup({ zone: 'z1', domain: guest.name, settings: slowly });
    const followed = await client.follow(id, async (event) => {
      if (isStart(event, Stage.STAGE_BLOCKJOB)) await update(client, id, { $case: 'paused', value: true });
      if (event.event?.$case !== 'paused') return;
      const paused = await client.getOperation(id);
      assert.equal(paused.state, OperationState.OPERATION_STATE_PAUSED);
      const standing = await until('The job stands still', 20_000, async () => {
        const first = readBytes(await client.getOperation(id));
        await new Promise((resolve) => setTimeout(resolve, 1_000));
        return first === readBytes(await client.getOperation(id)) ? true : undefined;
      });
      assert.ok(standing);
      await update(client, id, { $case: 'bandwidthLimitMibps', value: 0n });
      await update(client, id, { $case: 'paused', value: false });
    });
    succeeded(followed);
    const kinds = kindsOf(followed.events);
    assert.ok(kinds.includes('paused') && kinds.indexOf('resumed') > kinds.indexOf('paused'), kinds.join());
  });

  it('cancels and leaves nothing', async () => {
    const { lab, guest, holdfast } = fixture;
    const { client, agent } = holdfast;
    const { operations } = client;
    const before = await readdir(path.join(holdfast.repository(), guest.uuid)).catch(() => []);
    const { id } = await client.startBackup({ zone: 'z1', domain: guest.name, settings: slowly });
    const followed = await client.follow(id, async ({ event }) => {
      if (event?.$case !== 'stageProgress' || event.value.figures?.processedBytes === 0n) return;
      await client.call(operations.cancelOperation.bind(operations), { operationId: id });
    });
    assert.equal(followed.operation.state, OperationState.OPERATION_STATE_CANCELLED);
    assert.equal(failed(followed).reason, 'CANCELLED');
    assert.deepEqual(await readdir(path.join(holdfast.repository(), guest.uuid)), before);
    assert.match(await lab.virsh(['domjobinfo', guest.uuid]), /None/);
    for (const directory of [
      path.join(agent.runtimeDirectory, 'jobs', id),
      path.join(agent.runtimeDirectory, 'nbd', id),
      path.join(agent.scratchDirectory, id),
    ]) {
      await assert.rejects(access(directory), { code: 'ENOENT' }, directory);
    }
    await until('The job has no process any more', 5_000, async () =>
      (await processesNaming(id)).length === 0 ? true : undefined,
    );
    // What is done cannot be undone.
    const again = await client.call(operations.cancelOperation.bind(operations), { operationId: id });
    assert.equal(again.operation?.state, OperationState.OPERATION_STATE_CANCELLED);
    await guest.writeFile('/data/after-cancel.txt', 'The guest goes on.\n');
  });
});

function readBytes(operation: Operation): bigint {
  const stage = operation.stages.find((each) => each.stage === Stage.STAGE_BLOCKJOB);
  return stage?.figures?.processedBytes ?? 0n;
}

async function update(
  client: Client,
  operationId: string,
  change: NonNullable<UpdateOperationRequest['change']>,
): Promise<void> {
  const { operations } = client;
  await client.call(operations.updateOperation.bind(operations), { operationId, change });
}
