import assert from 'node:assert/strict';
import { readdir, readFile, stat } from 'node:fs/promises';
import path from 'node:path';
import { useHoldfast } from '../harness/fixture.ts';
import { succeeded } from '../harness/follow.ts';
import { filesDisk } from './support/guests.ts';
import { requireSameContent } from './support/images.ts';

describe('rotating a key', () => {
  const fixture = useHoldfast({ guest: { disks: [filesDisk], start: false } });

  /** Every file of the repository with its path. */
  async function files(): Promise<string[]> {
    const root = fixture.holdfast.repository();
    const entries = await readdir(root, { recursive: true, withFileTypes: true });
    return entries
      .filter((entry) => entry.isFile())
      .map((entry) => path.relative(root, path.join(entry.parentPath, entry.name)))
      .toSorted();
  }

  it('leaves no file of the old one, rewrites no image, and the backup is restored', async () => {
    const { guest, holdfast } = fixture;
    const { client } = holdfast;
    await client.setSettings('z1', {
      'nas.backup.encryption.enabled': 'true',
      'nas.backup.encryption.passphrase': 'before',
    });
    const { backupId } = succeeded(await client.takeBackup({ zone: 'z1', domain: guest.name }));
    const { path: folder } = await client.getBackup(backupId);
    const image = path.join(holdfast.repository(), folder, `${filesDisk.target}.qcow2`);
    const before = await stat(image, { bigint: true });
    const { keys } = client;
    const listKeys = async () =>
      (await client.call(keys.listKeys.bind(keys), { zone: 'z1' })).keys.map(({ id }) => id);
    const [old = ''] = await listKeys();
    assert.ok((await files()).includes(`${folder}/key.${old}.age`));
    assert.ok((await files()).includes(`zone-keys/${old}.age`));

    await client.setSettings('z1', { 'nas.backup.encryption.passphrase': 'after' });
    const { operation } = await client.call(keys.rotateKey.bind(keys), { zone: 'z1', requestId: '' });
    succeeded(await client.follow(operation?.id ?? ''));
    const [present = ''] = await listKeys();
    assert.notEqual(present, old);
    assert.deepEqual(
      (await files()).filter((name) => name.includes(old)),
      [],
    );
    assert.ok((await files()).includes(`${folder}/key.${present}.age`));
    const after = await stat(image, { bigint: true });
    assert.deepEqual([after.ino, after.mtimeNs], [before.ino, before.mtimeNs]);
    assert.equal(
      (await readFile(path.join(holdfast.repository(), folder, 'manifest.json'), 'utf8')).includes(old),
      true,
    );

    await assert.rejects(client.verifyBackup({ backupId, passphrase: 'before' }), { reason: 'KEY_WRONG' });
    succeeded(await client.verifyBackup({ backupId, passphrase: 'after' }));
    const directory = await holdfast.restoreDirectory();
    const { result } = succeeded(
      await client.restoreBackup({ backupId, host: 'host-1', directory, passphrase: 'after' }),
    );
    const [disk] = guest.disks;
    assert.ok(disk);
    const outcome = result?.result;
    assert.equal(outcome?.$case, 'restore');
    const [restored] = outcome.value.disks;
    await requireSameContent(disk, { path: restored?.path ?? '', format: 'qcow2' });
  });
});
