import assert from 'node:assert/strict';
import { mkdir, readdir, readFile, stat, writeFile } from 'node:fs/promises';
import { randomUUID } from 'node:crypto';
import { join } from 'node:path';
import { temporaryDirectory } from '../testing/directory.ts';
import { openLocal } from '../testing/repository.ts';
import { findKeyFiles, writeKeyFiles } from './keyFileCalls.ts';
import { keyFile, temporaryFile, zoneKeyFile } from './layout.ts';
import type { Repository } from './repository.ts';

const FOLDERS = ['d1/b1', 'd1/b2', 'd2/b3.partial'];

describe('key files', () => {
  let directory: Awaited<ReturnType<typeof temporaryDirectory>>;
  let repository: Repository;
  beforeEach(async () => {
    directory = await temporaryDirectory();
    repository = openLocal(directory.path);
    for (const folder of FOLDERS) {
      await put(`${folder}/${keyFile('old')}`, `key of ${folder}`);
      await put(`${folder}/vda.qcow2`, 'image');
    }
    await put(zoneKeyFile('old'), 'zone key');
  });
  afterEach(async () => {
    repository.close();
    await directory[Symbol.asyncDispose]();
  });
  const at = (name: string): string => join(directory.path, name);
  async function put(name: string, content: string): Promise<void> {
    await mkdir(join(at(name), '..'), { recursive: true });
    await writeFile(at(name), content);
  }
  const write = (files: Partial<Parameters<typeof writeKeyFiles>[1]>) =>
    writeKeyFiles(repository, {
      ...{
        zone: 'z',
        repository: undefined,
        zoneKeys: [],
        replacedZoneKeys: [],
        backups: [],
        fencingEpoch: 0n,
      },
      ...files,
    });
  const find = (keyIds: string[], zoneKeys = false) =>
    findKeyFiles(repository, { zone: 'z', repository: undefined, keyIds, zoneKeys });
  const wrapped = (path: string, keyId = 'new') => ({
    path,
    keyId,
    wrappedKey: Buffer.from(`${keyId} ${path}`),
  });

  it('are found by the keys that open them, half-written ones too', async () => {
    const half = temporaryFile(`d1/b1/${keyFile('old')}`, randomUUID());
    await put(half, 'half');
    await put(`d1/b2/${keyFile('other')}`, 'other');
    await put('d1/key.old.age', 'not in the folder of a backup');
    const { backups, more, zoneKeys } = await find(['old']);
    assert.deepEqual(
      backups.map(({ path, keyId, wrappedKey }) => `${path} ${keyId} ${wrappedKey.toString()}`).toSorted(),
      [...FOLDERS.map((folder) => `${folder} old key of ${folder}`), 'd1/b1 old half'].toSorted(),
    );
    assert.deepEqual([more, zoneKeys], [false, []]);
    assert.deepEqual((await find([], true)).zoneKeys, [{ keyId: 'old', content: Buffer.from('zone key') }]);
    assert.deepEqual(await find(['absent']), { backups: [], more: false, zoneKeys: [] });
  });

  it('replace those of before, and no other file', async () => {
    await put(temporaryFile(`d1/b1/${keyFile('old')}`, randomUUID()), 'half');
    const image = await stat(at('d1/b1/vda.qcow2'));
    const { missingPaths } = await write({
      zoneKeys: [{ keyId: 'new', content: Buffer.from('new zone key') }],
      backups: [...FOLDERS.map((folder) => wrapped(folder)), wrapped('d1/gone')],
    });
    assert.deepEqual(missingPaths, ['d1/gone']);
    for (const folder of FOLDERS) {
      assert.deepEqual((await readdir(at(folder))).toSorted(), ['key.new.age', 'vda.qcow2']);
      assert.equal(await readFile(at(`${folder}/key.new.age`), 'utf8'), `new ${folder}`);
    }
    assert.equal((await stat(at('d1/b1/vda.qcow2'))).mtimeMs, image.mtimeMs);
    assert.deepEqual((await readdir(at('zone-keys'))).toSorted(), ['new.age', 'old.age']);
    await write({ backups: [wrapped('d1/b1')] });
    assert.deepEqual((await find(['old'])).backups, []);
  });

  it('of a zone are replaced where they are, and removed with what a killed write left', async () => {
    await put(temporaryFile(zoneKeyFile('old'), randomUUID()), 'half');
    const content = Buffer.from('under another passphrase');
    await write({ replacedZoneKeys: ['old', 'absent'].map((keyId) => ({ keyId, content })) });
    assert.deepEqual((await find([], true)).zoneKeys, [{ keyId: 'old', content }]);
    await write({ zoneKeys: [{ keyId: 'old', content: Buffer.alloc(0) }] });
    assert.deepEqual(await readdir(at('zone-keys')), []);
    await write({ zoneKeys: [{ keyId: 'old', content: Buffer.alloc(0) }] });
  });

  it('are written by the newest controller that any host has seen, and by no older one', async () => {
    await write({ backups: [wrapped('d1/b1', 'first')], fencingEpoch: 1n });
    await write({ backups: [wrapped('d1/b1', 'second')], fencingEpoch: 2n });
    const stale = { reason: 'STALE_EPOCH', metadata: { epoch: '2' } };
    const zoneKey = { keyId: 'old', content: Buffer.from('of the replaced one') };
    const files = { zoneKeys: [zoneKey], backups: [wrapped('d1/b1', 'first')], fencingEpoch: 1n };
    await assert.rejects(write(files), stale);
    repository.close();
    repository = openLocal(directory.path);
    await assert.rejects(write(files), stale);
    await assert.rejects(write({ replacedZoneKeys: [zoneKey], fencingEpoch: 1n }), stale);
    assert.deepEqual((await readdir(at('d1/b1'))).toSorted(), ['key.second.age', 'vda.qcow2']);
    assert.equal(await readFile(at(zoneKeyFile('old')), 'utf8'), 'zone key');
    await write({ backups: [wrapped('d1/b1', 'third')], fencingEpoch: 2n });
    assert.deepEqual((await readdir(at('d1/b1'))).toSorted(), ['key.third.age', 'vda.qcow2']);
  });

  it('are not written on by a controller that is replaced meanwhile', async () => {
    await repository.acceptKeyEpoch(7);
    await assert.rejects(repository.writeBackupKeyFiles([wrapped('d1/b1')], 6), { reason: 'STALE_EPOCH' });
    assert.deepEqual((await readdir(at('d1/b1'))).toSorted(), ['key.old.age', 'vda.qcow2']);
  });

  it('are found a thousand at a time', async () => {
    for (let index = 0; index < 1_001; index++) await put(`many/${index}/${keyFile('old')}`, 'x');
    const { backups, more } = await find(['old']);
    assert.deepEqual([backups.length, more], [1_000, true]);
  });

  it('lead nowhere out of the repository', async () => {
    await assert.rejects(write({ backups: [wrapped('../elsewhere')] }), /leads out of the repository/);
  });
});
