import assert from 'node:assert/strict';
import { access, open, readdir, stat } from 'node:fs/promises';
import path from 'node:path';
import { silentLogger } from '@holdfast/common/logger.ts';
import { BackupState, VerifyBackupRequest } from '@holdfast/proto/holdfast/v1/backup.ts';
import { Stage, type DamageFound, type OperationEvent } from '@holdfast/proto/holdfast/v1/event.ts';
import {
  ListOperationsRequest,
  OperationOrigin,
  OperationState,
  type Operation,
  type UpdateOperationRequest,
} from '@holdfast/proto/holdfast/v1/operation.ts';
import { startController } from '../../controller/src/controller.ts';
import { readMasterKeyFile } from '../../controller/src/master-key.ts';
import { useHoldfast } from '../harness/fixture.ts';
import type { Client } from '../harness/client.ts';
import { failed, succeeded } from '../harness/follow.ts';
import { processesNaming } from '../harness/leftovers.ts';
import { until } from '../lab/deadline.ts';
import { kindsOf } from './support/events.ts';
import { filesDisk } from './support/guests.ts';

const SCRUBS_DEADLINE_MS = 60_000;

/** Levels of verification, from the snapshot of a running guest to what lies on the repository. */
describe('digests of a backup', () => {
  const fixture = useHoldfast({ guest: { disks: [filesDisk], writerMiBPerSecond: 1 } });
  const proved = {
    'nas.backup.compression.enabled': 'true',
    'nas.backup.encryption.enabled': 'true',
    'nas.backup.encryption.passphrase': 'a passphrase of the test',
    'nas.backup.integrity.check': 'true',
    'nas.backup.integrity.level': 'source',
  };
  let backup: Operation;

  it('are made of the snapshot of a running guest, and the images are compared with them before they are published', async () => {
    const { guest, holdfast } = fixture;
    const { client } = holdfast;
    backup = succeeded(await client.takeBackup({ zone: 'z1', domain: guest.name, settings: proved }));
    const stages = backup.stages.map(({ stage }) => stage);
    assert.deepEqual(stages.slice(-3), [Stage.STAGE_DIGEST, Stage.STAGE_CHECK, Stage.STAGE_PUBLISH]);
    assert.deepEqual(backup.warnings, []);
    const { manifest } = await client.getBackup(backup.backupId);
    assert.ok(manifest);
    for (const { contentDigests, storedDigests } of manifest.disks) {
      assert.deepEqual([contentDigests?.algorithm, contentDigests?.origin], ['hmac-sha256', 'snapshot']);
      assert.deepEqual([storedDigests?.algorithm, storedDigests?.origin], ['sha256', 'file']);
    }
  });

  it('prove it later: what is stored without its key, what the guest saw, and parts of it', async () => {
    const { client } = fixture.holdfast;
    const { backupId } = backup;
    for (const [level, samplePercent] of [
      ['stored', 0],
      ['content', 0],
      ['content', 5],
    ] as const) {
      const operation = succeeded(await client.verifyBackup({ backupId, level, samplePercent }));
      const result = operation.result?.result;
      assert.ok(result?.$case === 'verification');
      const { disks, level: found } = result.value;
      assert.equal(found, level);
      for (const { comparedChunks, totalChunks } of disks) {
        assert.ok(comparedChunks > 0n && totalChunks > 0n);
        assert.equal(
          comparedChunks === totalChunks,
          samplePercent === 0,
          `${comparedChunks} of ${totalChunks}`,
        );
      }
    }
  });

  it('are compared by a verification that is slowed, paused and hurried, and leaves nothing when it is cancelled', async () => {
    const { agent, client } = fixture.holdfast;
    const { backups, operations } = client;
    const { backupId } = backup;
    const start = async (): Promise<string> => {
      const request = VerifyBackupRequest.fromPartial({
        backupId,
        level: 'content',
        bandwidthLimitMibps: 1n,
      });
      return (await client.call(backups.verifyBackup.bind(backups), request)).operation?.id ?? '';
    };
    const update = (operationId: string, change: NonNullable<UpdateOperationRequest['change']>) =>
      client.call(operations.updateOperation.bind(operations), { operationId, change });
    const readBytes = (event: OperationEvent['event']): bigint =>
      event?.$case === 'stageProgress' && event.value.stage === Stage.STAGE_CHECK
        ? (event.value.figures?.processedBytes ?? 0n)
        : 0n;
    const standing = async (id: string): Promise<bigint> => {
      const { stages } = await client.getOperation(id);
      return stages.find(({ stage }) => stage === Stage.STAGE_CHECK)?.figures?.processedBytes ?? 0n;
    };

    const steered = await start();
    let isAsked = false;
    const followed = await client.follow(steered, async ({ event }) => {
      if (!isAsked && readBytes(event) > 0n) {
        isAsked = true;
        await update(steered, { $case: 'paused', value: true });
      }
      if (event?.$case !== 'paused') return;
      await until('It stands still', 20_000, async () => {
        const before = await standing(steered);
        await new Promise((resolve) => setTimeout(resolve, 1_000));
        return before === (await standing(steered)) ? true : undefined;
      });
      await update(steered, { $case: 'bandwidthLimitMibps', value: 0n });
      await update(steered, { $case: 'paused', value: false });
    });
    assert.equal(succeeded(followed).bandwidthLimitMibps, 0n);
    const kinds = kindsOf(followed.events);
    assert.ok(kinds.includes('paused') && kinds.indexOf('resumed') > kinds.indexOf('paused'), kinds.join());

    const doomed = await start();
    let cancelledMs = 0;
    const ended = await client.follow(doomed, async ({ event }) => {
      if (cancelledMs > 0 || readBytes(event) === 0n) return;
      cancelledMs = performance.now();
      await client.call(operations.cancelOperation.bind(operations), { operationId: doomed });
    });
    assert.equal(failed(ended).reason, 'CANCELLED');
    assert.ok(performance.now() - cancelledMs < 5_000, `${performance.now() - cancelledMs} ms`);
    await until('The job has no process any more', 5_000, async () =>
      (await processesNaming(doomed)).length === 0 ? true : undefined,
    );
    await assert.rejects(access(path.join(agent.runtimeDirectory, 'jobs', doomed)), { code: 'ENOENT' });
    assert.equal((await client.getBackup(backupId)).state, BackupState.BACKUP_STATE_AVAILABLE);
  });

  it('find one bit that was flipped among the data, which the metadata do not show', async () => {
    const { client, repository } = fixture.holdfast;
    const { backupId } = backup;
    const { path: folder } = await client.getBackup(backupId);
    const at = await flipBit(path.join(repository('z1'), folder), '.luks');
    succeeded(await client.verifyBackup({ backupId, level: 'metadata' }));
    for (const level of ['stored', 'content']) {
      const followed = await client.verifyBackup({ backupId, level });
      assert.equal(failed(followed).reason, 'BACKUP_DAMAGED');
      const damages: readonly DamageFound[] = followed.operation.damages;
      assert.deepEqual([damages.length, damages[0]?.level, damages[0]?.ranges.length], [1, level, 1]);
      if (level !== 'stored') continue;
      const [{ offset, length } = { offset: 0n, length: 0n }] = damages[0]?.ranges ?? [];
      assert.ok(offset <= BigInt(at) && BigInt(at) < offset + length, `${offset} ${length} ${at}`);
    }
  });

  it('that a backup lacks are not proved: the level is refused', async () => {
    const { guest, holdfast } = fixture;
    const settings = { 'nas.backup.integrity.digests': 'none' };
    const { backupId } = succeeded(
      await holdfast.client.takeBackup({ zone: 'z1', domain: guest.name, settings }),
    );
    for (const level of ['stored', 'content']) {
      await assert.rejects(holdfast.client.verifyBackup({ backupId, level }), { reason: 'DIGESTS_MISSING' });
    }
    await assert.rejects(holdfast.client.verifyBackup({ backupId, level: 'all' }), {
      reason: 'INVALID_REQUEST',
    });
  });

  it('are compared by scheduled scrubs too: a month later, without being asked', async () => {
    const { guest, holdfast } = fixture;
    const { client, controller, repository } = holdfast;
    const sound = succeeded(await client.takeBackup({ zone: 'z1', domain: guest.name })).backupId;
    const flipped = succeeded(await client.takeBackup({ zone: 'z1', domain: guest.name })).backupId;
    await flipBit(path.join(repository('z1'), (await client.getBackup(flipped)).path), '.qcow2');
    await client.setSettings('z1', { 'nas.backup.scrub.enabled': 'true' });
    await controller.kill();
    const monthMs = 31 * 86_400_000;
    const later = await startController({
      listen: [controller.address],
      state: { kind: 'sqlite', directory: path.join(controller.directory, 'state') },
      masterKey: await readMasterKeyFile(path.join(holdfast.directory, 'master.key')),
      logger: silentLogger,
      now: () => new Date(Date.now() + monthMs),
    });
    try {
      const scrubs = await endedScrubs(client, 3);
      const found = new Map(scrubs.map((scrub) => [scrub.backupId, scrub]));
      // What was known to be damaged is left alone; what has no digests is looked at as far as it goes.
      assert.ok(found.size === 3 && !found.has(backup.backupId));
      assert.equal((await client.getBackup(sound)).lastProof?.operationId, found.get(sound)?.id);
      assert.equal((await client.getBackup(sound)).lastProof?.level, 'stored');
      const scrub = found.get(flipped);
      const { operation, events } = await client.follow(scrub?.id ?? '');
      assert.equal(failed({ operation, events }).reason, 'BACKUP_DAMAGED');
      assert.ok(events.some(({ event }) => event?.$case === 'damageFound'));
      const { state, damage } = await client.getBackup(flipped);
      assert.deepEqual([state, damage?.operationId], [BackupState.BACKUP_STATE_DAMAGED, operation.id]);
    } finally {
      await later.close();
      await controller.start();
    }
  });
});

/** Flips one bit in the middle of the image of a backup. @returns which byte it is in */
async function flipBit(directory: string, extension: string): Promise<number> {
  const image = (await readdir(directory)).find((name) => name.endsWith(extension)) ?? '';
  const at = Math.floor((await stat(path.join(directory, image))).size / 2);
  await using handle = await open(path.join(directory, image), 'r+');
  const byte = Buffer.alloc(1);
  await handle.read(byte, 0, 1, at);
  await handle.write(Buffer.from([(byte[0] ?? 0) ^ 1]), 0, 1, at);
  await handle.sync();
  return at;
}

/** Waits until so many scrubs have ended. */
async function endedScrubs(client: Client, count: number): Promise<readonly Operation[]> {
  const { operations } = client;
  const request = ListOperationsRequest.fromPartial({
    states: [OperationState.OPERATION_STATE_SUCCEEDED, OperationState.OPERATION_STATE_FAILED],
  });
  return await until(`${count} scrubs have ended`, SCRUBS_DEADLINE_MS, async () => {
    const page = await client.call(operations.listOperations.bind(operations), request);
    const scrubs = page.operations.filter(({ origin }) => origin === OperationOrigin.OPERATION_ORIGIN_SCRUB);
    return scrubs.length >= count ? scrubs : undefined;
  });
}
