import assert from 'node:assert/strict';
import { mkdir, readdir, rename, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Manifest } from '@holdfast/proto/holdfast/v1/manifest.ts';
import { temporaryDirectory } from '../testing/directory.ts';
import { openLocal } from '../testing/repository.ts';
import { deleteBackup } from './deleteBackup.ts';
import { backupFolder } from './layout.ts';
import { encodeManifest } from './manifestFile.ts';
import type { Repository } from './repository.ts';

const DOMAIN = '00000000-0000-4000-8000-000000000001';
const ID = '00000000-0000-4000-8000-00000000000a';
const OTHER = '00000000-0000-4000-8000-00000000000b';
const FOLDER = backupFolder(DOMAIN, new Date('2026-01-02T03:04:05.678Z'), ID);

describe('deleting a backup', () => {
  let directory: Awaited<ReturnType<typeof temporaryDirectory>>;
  let repository: Repository;
  beforeEach(async () => {
    directory = await temporaryDirectory();
    repository = openLocal(directory.path);
    await mkdir(join(directory.path, FOLDER), { recursive: true });
    await writeFile(join(directory.path, FOLDER, 'vda.qcow2'), Buffer.alloc(100_000, 1));
    await manifest(ID);
  });
  afterEach(async () => {
    repository.close();
    await directory[Symbol.asyncDispose]();
  });
  const manifest = (backupId: string): Promise<void> =>
    writeFile(
      join(directory.path, FOLDER, 'manifest.json'),
      encodeManifest(Manifest.fromPartial({ version: 1, backupId, domainXmlFile: 'domain.xml' })),
    );
  const left = (): Promise<string[]> => readdir(join(directory.path, DOMAIN));

  it('removes its folder, says what that freed, and does no harm when repeated', async () => {
    assert.ok((await deleteBackup(repository, FOLDER, ID)).freedBytes >= 100_000n);
    assert.deepEqual(await left(), []);
    assert.deepEqual(await deleteBackup(repository, FOLDER, ID), { freedBytes: 0n });
  });

  it('ends a deletion that was interrupted', async () => {
    await rename(join(directory.path, FOLDER), join(directory.path, `${FOLDER}.partial`));
    assert.ok((await deleteBackup(repository, FOLDER, ID)).freedBytes >= 100_000n);
    assert.deepEqual(await left(), []);
  });

  it('removes one whose manifest is damaged or missing', async () => {
    await writeFile(join(directory.path, FOLDER, 'manifest.json'), '{');
    await deleteBackup(repository, FOLDER, ID);
    assert.deepEqual(await left(), []);
  });

  it('does not touch the folder of another backup', async () => {
    await manifest(OTHER);
    await assert.rejects(deleteBackup(repository, FOLDER, ID), { reason: 'BACKUP_DAMAGED' });
    const siblings = [
      FOLDER.replace(ID, OTHER),
      DOMAIN,
      '',
      '.',
      '..',
      `${DOMAIN}/../x`,
      `${FOLDER}/`,
      `/${FOLDER}`,
    ];
    for (const folder of [...siblings, `${FOLDER}\n`, 'zone-keys']) {
      await assert.rejects(deleteBackup(repository, folder, ID), { reason: 'INVALID_REQUEST' }, folder);
    }
    await assert.rejects(deleteBackup(repository, FOLDER, OTHER), { reason: 'INVALID_REQUEST' });
    assert.equal((await left()).length, 1);
  });

  it('does not follow a link that lies in it', async () => {
    const outside = join(directory.path, 'outside');
    await mkdir(outside);
    await writeFile(join(outside, 'precious'), '');
    await symlink(outside, join(directory.path, FOLDER, 'link'));
    await deleteBackup(repository, FOLDER, ID);
    assert.deepEqual(await readdir(outside), ['precious']);
  });

  it('does not say that it is gone when the repository is not there', async () => {
    const none = openLocal(join(directory.path, 'none'));
    await assert.rejects(deleteBackup(none, FOLDER, ID), { reason: 'REPOSITORY_UNUSABLE' });
    none.close();
  });
});
