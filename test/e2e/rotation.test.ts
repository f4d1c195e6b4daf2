import assert from 'node:assert/strict';
import { copyFile, mkdir, readdir, readFile, stat } from 'node:fs/promises';
import path from 'node:path';
import { promisify } from 'node:util';
import { Decrypter } from 'age-encryption';
import { connectTo } from '@holdfast/common/client.ts';
import { fromServiceError } from '@holdfast/common/errors.ts';
import { AgentServiceClient, WriteKeyFilesRequest } from '@holdfast/proto/holdfast/agent/v1/agent.ts';
import { RepositoryType } from '@holdfast/proto/holdfast/v1/repository.ts';
import { useHoldfast } from '../harness/fixture.ts';
import { succeeded } from '../harness/follow.ts';
import { until } from '../lab/deadline.ts';
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

  /** The ids of the zone's keys. */
  async function listKeys(): Promise<string[]> {
    const { client } = fixture.holdfast;
    const { keys } = await client.call(client.keys.listKeys.bind(client.keys), { zone: 'z1' });
    return keys.map(({ id }) => id);
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

  it('goes on when the agent and the controller are killed in the middle, and no file is half or missing', async () => {
    const { guest, holdfast } = fixture;
    const { client, agent, controller } = holdfast;
    const root = holdfast.repository();
    const { backupId } = succeeded(await client.takeBackup({ zone: 'z1', domain: guest.name }));
    const { path: folder } = await client.getBackup(backupId);
    const [old = ''] = await listKeys();
    // Of backups that the catalogue does not know, so many that there is a middle.
    const copies = Array.from({ length: 500 }, (_, index) => `copies/${index}`);
    for (const copy of copies) {
      await mkdir(path.join(root, copy), { recursive: true });
      await copyFile(path.join(root, folder, `key.${old}.age`), path.join(root, copy, `key.${old}.age`));
    }
    const { keys } = client;
    const { operation, keyId } = await client.call(keys.rotateKey.bind(keys), { zone: 'z1', requestId: '' });
    const done = async (): Promise<number> =>
      (await files()).filter((name) => name.endsWith(`/key.${keyId}.age`)).length;
    const moreThan = (count: number): Promise<true> =>
      until('Key files are written', 60_000, async () => ((await done()) > count ? true : undefined), 5);
    await moreThan(5);
    await agent.kill();
    const before = await done();
    assert.ok(before < copies.length, `${before} were written`);
    await agent.start();
    await moreThan(before);
    await controller.kill();
    await controller.start();
    succeeded(await client.follow(operation?.id ?? ''));

    const names = await files();
    assert.deepEqual(
      names.filter((name) => name.includes(old) || name.endsWith('.tmp')),
      [],
    );
    const zoneKey = new Decrypter();
    zoneKey.addPassphrase('after');
    const backupKey = new Decrypter();
    backupKey.addIdentity(
      (await zoneKey.decrypt(await readFile(path.join(root, 'zone-keys', `${keyId}.age`)), 'text')).trim(),
    );
    const open = async (name: string): Promise<string> =>
      backupKey.decrypt(await readFile(path.join(root, name, `key.${keyId}.age`)), 'text');
    const secret = await open(folder);
    for (const copy of copies) {
      assert.deepEqual(await readdir(path.join(root, copy)), [`key.${keyId}.age`]);
      assert.equal(await open(copy), secret);
    }
    succeeded(await client.verifyBackup({ backupId }));
  });

  it('is not undone by a controller that was replaced meanwhile, whatever it still writes', async () => {
    const { agent, repository } = fixture.holdfast;
    const root = repository();
    const epoch = BigInt((await readFile(path.join(root, 'zone-keys', 'epoch'), 'utf8')).trim());
    // The update that was taken over when its controller was killed outranks itself, and the one before.
    assert.ok(epoch > 2n, `epoch ${epoch}`);
    const keyFile = (await files()).find((name) => /^[0-9a-f-]{36}\/.*\/key\./.test(name)) ?? '';
    const keyId = /key\.(.+)\.age$/.exec(keyFile)?.[1] ?? '';
    const before = await readFile(path.join(root, keyFile));
    const client = connectTo(AgentServiceClient, agent.address);
    try {
      const stale = WriteKeyFilesRequest.fromPartial({
        zone: 'z1',
        repository: { name: 'nas-z1', type: RepositoryType.REPOSITORY_TYPE_LOCAL, path: root },
        backups: [{ path: path.dirname(keyFile), keyId, wrappedKey: Buffer.from('of the one before') }],
        zoneKeys: [{ keyId, content: Buffer.alloc(0) }],
        fencingEpoch: epoch - 1n,
      });
      await assert.rejects(
        promisify<WriteKeyFilesRequest, unknown>(client.writeKeyFiles.bind(client))(stale).catch(
          (error: unknown) => {
            throw fromServiceError(error);
          },
        ),
        { reason: 'STALE_EPOCH' },
      );
    } finally {
      client.close();
    }
    assert.deepEqual(await readFile(path.join(root, keyFile)), before);
    assert.ok((await files()).includes(`zone-keys/${keyId}.age`));
  });
});
