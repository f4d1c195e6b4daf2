import assert from 'node:assert/strict';
import { open, readdir, stat } from 'node:fs/promises';
import path from 'node:path';
import { Stage, type DamageFound } from '@holdfast/proto/holdfast/v1/event.ts';
import type { Operation } from '@holdfast/proto/holdfast/v1/operation.ts';
import { useHoldfast } from '../harness/fixture.ts';
import { failed, succeeded } from '../harness/follow.ts';
import { filesDisk } from './support/guests.ts';

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

  it('find one bit that was flipped among the data, which the metadata do not show', async () => {
    const { client, repository } = fixture.holdfast;
    const { backupId } = backup;
    const { path: folder } = await client.getBackup(backupId);
    const directory = path.join(repository('z1'), folder);
    const image = (await readdir(directory)).find((name) => name.endsWith('.luks')) ?? '';
    const at = Math.floor((await stat(path.join(directory, image))).size / 2);
    await using handle = await open(path.join(directory, image), 'r+');
    const byte = Buffer.alloc(1);
    await handle.read(byte, 0, 1, at);
    await handle.write(Buffer.from([(byte[0] ?? 0) ^ 1]), 0, 1, at);
    await handle.sync();
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
});
