import assert from 'node:assert/strict';
import { readdir } from 'node:fs/promises';
import path from 'node:path';
import { RestoreBackupRequest, VerifyBackupRequest } from '@holdfast/proto/holdfast/v1/backup.ts';
import { Stage } from '@holdfast/proto/holdfast/v1/event.ts';
import { OperationState, type Operation } from '@holdfast/proto/holdfast/v1/operation.ts';
import { isStart } from '../e2e/support/events.ts';
import { busyGuest, slowly } from '../e2e/support/guests.ts';
import { useHoldfast } from '../harness/fixture.ts';
import { failed, succeeded, type Followed } from '../harness/follow.ts';
import { processesNaming } from '../harness/leftovers.ts';
import { until } from '../lab/deadline.ts';
import { nothingLeft } from './support/nothingLeft.ts';

const { STAGE_PREPARE, STAGE_QUIESCE, STAGE_BLOCKJOB, STAGE_CONVERT, STAGE_CHECK, STAGE_PUBLISH } = Stage;
/** Five seconds, and what two cores that others use too take more. */
const DEADLINE_MS = 5_500;

describe('cancelling', function () {
  this.timeout(180_000);
  const fixture = useHoldfast({ guest: busyGuest });
  let backupId: string;
  before(async () => {
    const { client } = fixture.holdfast;
    const followed = await client.takeBackup({ zone: 'z1', domain: fixture.guest.uuid });
    ({ backupId } = succeeded(followed));
  });
  afterEach(() => nothingLeft(fixture.lab, fixture.holdfast));

  const cancel = async (operationId: string): Promise<Operation> => {
    const { client } = fixture.holdfast;
    const request = client.operations.cancelOperation.bind(client.operations);
    const { operation } = await client.call(request, { operationId });
    assert.ok(operation);
    return operation;
  };
  const present = ({ operation }: { readonly operation: Operation | undefined }): Operation => {
    assert.ok(operation);
    return operation;
  };
  const backup = (settings: Record<string, string>): Promise<Operation> =>
    fixture.holdfast.client.startBackup({ zone: 'z1', domain: fixture.guest.uuid, settings });
  const verify = async (): Promise<Operation> => {
    const { client } = fixture.holdfast;
    const request = VerifyBackupRequest.fromPartial({ backupId });
    return present(await client.call(client.backups.verifyBackup.bind(client.backups), request));
  };
  const restore = async (): Promise<Operation> => {
    const { client, agent, restoreDirectory } = fixture.holdfast;
    const directory = await restoreDirectory();
    const request = RestoreBackupRequest.fromPartial({ backupId, host: agent.hostName, directory });
    const operation = present(await client.call(client.backups.restoreBackup.bind(client.backups), request));
    restored.set(operation.id, directory);
    return operation;
  };
  const restored = new Map<string, string>();
  const folders = (): Promise<string[]> =>
    readdir(path.join(fixture.holdfast.repository(), fixture.guest.uuid));

  /** Cancels an operation when a stage of it begins. */
  const cancelledAt = async (stage: Stage, { id }: Operation): Promise<Followed> => {
    let cancelledMs = Infinity;
    const followed = await fixture.holdfast.client.follow(id, async (event) => {
      if (!isStart(event, stage)) return;
      cancelledMs = performance.now();
      await cancel(id);
    });
    const tookMs = performance.now() - cancelledMs;
    assert.ok(tookMs > 0 && tookMs < DEADLINE_MS, `stage ${stage}: ${tookMs} ms`);
    return followed;
  };
  /** It was cancelled, or the wish came too late and it ended well: nothing between. */
  const wasCancelled = (stage: Stage, { operation }: Followed): boolean => {
    if (operation.state === OperationState.OPERATION_STATE_SUCCEEDED) return false;
    assert.equal(operation.state, OperationState.OPERATION_STATE_CANCELLED, `stage ${stage}`);
    assert.deepEqual(operation.warnings, [], `stage ${stage}`);
    return true;
  };

  it('a backup, in each of its stages, ends it within five seconds and leaves nothing', async () => {
    const { client } = fixture.holdfast;
    const before = await folders();
    const settings = { 'nas.backup.quiesce': 'required', 'nas.backup.integrity.check': 'true' };
    let cancelled = 0;
    for (const stage of [STAGE_PREPARE, STAGE_QUIESCE, STAGE_BLOCKJOB, STAGE_CHECK, STAGE_PUBLISH]) {
      const followed = await cancelledAt(stage, await backup(settings));
      if (wasCancelled(stage, followed)) cancelled++;
      else succeeded(await client.deleteBackup(followed.operation.backupId));
      await nothingLeft(fixture.lab, fixture.holdfast);
      assert.deepEqual(await folders(), before);
      assert.equal(await fixture.guest.command('guest-fsfreeze-status'), 'thawed');
    }
    assert.ok(cancelled >= 3, `${cancelled} of 5 stages`);
  });

  it('a verification and a restore, in each of their stages, does too', async () => {
    for (const stage of [STAGE_PREPARE, STAGE_CHECK])
      wasCancelled(stage, await cancelledAt(stage, await verify()));
    for (const stage of [STAGE_PREPARE, STAGE_CONVERT, STAGE_PUBLISH]) {
      const followed = await cancelledAt(stage, await restore());
      if (!wasCancelled(stage, followed)) continue;
      assert.deepEqual(await readdir(restored.get(followed.operation.id) ?? ''), [], `stage ${stage}`);
    }
  });

  it('twice is once, and what has ended stays as it is', async () => {
    const { id } = await backup(slowly);
    const followed = await fixture.holdfast.client.follow(id, async (event) => {
      if (!isStart(event, STAGE_BLOCKJOB)) return;
      await Promise.all([cancel(id), cancel(id)]);
    });
    assert.equal(failed(followed).reason, 'CANCELLED');
    assert.equal((await cancel(id)).state, OperationState.OPERATION_STATE_CANCELLED);
    const done = await fixture.holdfast.client.verifyBackup({ backupId });
    assert.equal((await cancel(succeeded(done).id)).state, OperationState.OPERATION_STATE_SUCCEEDED);
  });

  it('one that is paused does not wait for its going on', async () => {
    const { client } = fixture.holdfast;
    const { id } = await backup(slowly);
    const update = client.operations.updateOperation.bind(client.operations);
    let cancelledMs = Infinity;
    const followed = await client.follow(id, async (event) => {
      if (isStart(event, STAGE_BLOCKJOB))
        await client.call(update, { operationId: id, change: { $case: 'paused', value: true } });
      if (event.event?.$case !== 'paused') return;
      cancelledMs = performance.now();
      await cancel(id);
    });
    const tookMs = performance.now() - cancelledMs;
    assert.equal(failed(followed).reason, 'CANCELLED');
    assert.ok(tookMs > 0 && tookMs < DEADLINE_MS, `${tookMs} ms`);
  });

  it('on a host that is down is CANCELLING until that is back', async () => {
    const { client, agent } = fixture.holdfast;
    const { id } = await backup(slowly);
    const followed = await client.follow(id, async (event) => {
      if (!isStart(event, STAGE_BLOCKJOB)) return;
      await agent.kill();
      assert.equal((await cancel(id)).state, OperationState.OPERATION_STATE_CANCELLING);
      await until('It is said why', 20_000, async () => {
        const { state, warnings } = await client.getOperation(id);
        assert.equal(state, OperationState.OPERATION_STATE_CANCELLING);
        return warnings.some(({ reason }) => reason === 'AGENT_UNREACHABLE') ? true : undefined;
      });
      await agent.start();
    });
    assert.equal(failed(followed).reason, 'CANCELLED');
  });

  it('while the QEMU that is read from hangs ends it, and lets the guest go when that is possible', async () => {
    const { guest } = fixture;
    const { id } = await backup(slowly);
    const qemu = (await processesNaming(guest.uuid)).filter(({ argv }) => argv[0]?.includes('qemu-system'));
    assert.equal(qemu.length, 1);
    let cancelledMs = Infinity;
    const followed = await fixture.holdfast.client.follow(id, async (event) => {
      if (!isStart(event, STAGE_BLOCKJOB)) return;
      for (const { pid } of qemu) process.kill(pid, 'SIGSTOP');
      cancelledMs = performance.now();
      await cancel(id);
    });
    const tookMs = performance.now() - cancelledMs;
    for (const { pid } of qemu) process.kill(pid, 'SIGCONT');
    assert.equal(failed(followed).reason, 'CANCELLED');
    assert.ok(tookMs < DEADLINE_MS, `${tookMs} ms`);
    assert.deepEqual(
      followed.operation.warnings.map(({ reason }) => reason),
      ['LEFTOVERS'],
    );
    await until('The guest is let go', 60_000, async () =>
      (await fixture.lab.virsh(['domjobinfo', guest.uuid])).includes('None') ? true : undefined,
    );
    await guest.writeFile('/data/after.txt', 'The guest goes on.\n');
  });
});
