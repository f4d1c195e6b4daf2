import assert from 'node:assert/strict';
import { cp, mkdir, rename, rm, symlink, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { execa } from 'execa';
import { manifestMac } from '@holdfast/common/manifestDigest.ts';
import { Secret } from '@holdfast/common/secret.ts';
import { ScannedFolderState, type ScannedFolder } from '@holdfast/proto/holdfast/agent/v1/agent.ts';
import { Manifest } from '@holdfast/proto/holdfast/v1/manifest.ts';
import { temporaryDirectory } from '../testing/directory.ts';
import { openLocal } from '../testing/repository.ts';
import { backupFolder } from './layout.ts';
import { encodeManifest } from './manifestFile.ts';
import type { Repository } from './repository.ts';
import { scanRepository } from './scan.ts';

const DOMAIN = '00000000-0000-4000-8000-000000000001';
const OTHER_DOMAIN = '00000000-0000-4000-8000-000000000002';
const SECRET = new Secret('the key');

const {
  SCANNED_FOLDER_STATE_BACKUP: BACKUP,
  SCANNED_FOLDER_STATE_UNFINISHED: UNFINISHED,
  SCANNED_FOLDER_STATE_FOREIGN: FOREIGN,
  SCANNED_FOLDER_STATE_DAMAGED: DAMAGED,
  SCANNED_FOLDER_STATE_MOVED: MOVED,
} = ScannedFolderState;

describe('scanning a repository', () => {
  let directory: Awaited<ReturnType<typeof temporaryDirectory>>;
  let repository: Repository;
  beforeEach(async () => {
    directory = await temporaryDirectory();
    repository = openLocal(directory.path);
  });
  afterEach(async () => {
    repository.close();
    await directory[Symbol.asyncDispose]();
  });
  const at = (...parts: string[]): string => join(directory.path, ...parts);
  /** Lays a backup down, whose number makes its id, and gives its folder. */
  const backup = async (number: number, encrypted = false, domainUuid = DOMAIN): Promise<string> => {
    const backupId = `00000000-0000-4000-8000-${number.toString(16).padStart(12, '0')}`;
    const folder = backupFolder(domainUuid, new Date('2026-01-02T03:04:05.678Z'), backupId);
    await mkdir(at(folder), { recursive: true });
    await writeFile(at(folder, 'vda.qcow2'), Buffer.alloc(1_000, number));
    await writeFile(at(folder, 'domain.xml'), '<domain/>');
    const manifest = encodeManifest(
      Manifest.fromPartial({
        version: 1,
        backupId,
        domainUuid,
        domainXmlFile: 'domain.xml',
        disks: [{ target: 'vda', file: 'vda.qcow2', storedBytes: 1_000n }],
        encryption: encrypted ? { keyId: 'k1', macFile: 'manifest.hmac' } : undefined,
      }),
    );
    await writeFile(at(folder, 'manifest.json'), manifest);
    if (encrypted) {
      await writeFile(at(folder, 'key.k1.age'), 'wrapped');
      await writeFile(at(folder, 'manifest.hmac'), `${manifestMac(manifest, SECRET)}\n`);
    }
    return folder;
  };
  const scan = async (signal = new AbortController().signal): Promise<ScannedFolder[]> =>
    (await Array.fromAsync(scanRepository(repository, signal))).flatMap(({ folders }) => folders);
  const only = async (): Promise<ScannedFolder> => {
    const [folder, ...others] = await scan();
    assert.ok(folder !== undefined && others.length === 0);
    return folder;
  };

  it('tells of backups, plain and encrypted, with what a catalogue needs', async () => {
    const plain = await backup(1);
    const sealed = await backup(2, true, OTHER_DOMAIN);
    await mkdir(at('zone-keys'));
    await writeFile(at('repository-id'), 'x');
    const folders = await scan();
    assert.deepEqual(
      folders.map(({ path, state, message }) => [path, state, message]),
      [
        [plain, BACKUP, ''],
        [sealed, BACKUP, ''],
      ],
    );
    const [first, second] = folders;
    assert.ok(first && second);
    assert.deepEqual([first.manifestMac, first.keys], ['', []]);
    assert.equal(second.manifestMac, manifestMac(second.manifestJson, SECRET));
    assert.deepEqual(second.keys, [{ keyId: 'k1', wrappedKey: Buffer.from('wrapped') }]);
  });

  it('gives both keys of a backup that is between two zone keys', async () => {
    const folder = await backup(1, true);
    await writeFile(at(folder, 'key.k2.age'), 'wrapped anew');
    assert.deepEqual((await only()).keys.map(({ keyId }) => keyId).toSorted(), ['k1', 'k2']);
    await rm(at(folder, 'key.k1.age'));
    assert.deepEqual((await only()).keys, [{ keyId: 'k2', wrappedKey: Buffer.from('wrapped anew') }]);
  });

  it('tells what is foreign or unfinished', async () => {
    await mkdir(at('i-2-10-VM', '2026.01.31.12.00.00'), { recursive: true });
    await mkdir(at('lost+found'));
    await mkdir(at(DOMAIN, 'notes'), { recursive: true });
    const folder = await backup(1);
    await rename(at(folder), at(`${folder}.partial`));
    await symlink('/', at(DOMAIN, 'link'));
    await symlink('/', at(OTHER_DOMAIN));
    assert.deepEqual(
      (await scan()).map(({ path, state }) => [path, state]),
      [
        [`${folder}.partial`, UNFINISHED],
        [`${DOMAIN}/notes`, FOREIGN],
        ['i-2-10-VM', FOREIGN],
        ['lost+found', FOREIGN],
      ],
    );
  });

  it('tells what was copied or renamed', async () => {
    const folder = await backup(1);
    await mkdir(at(OTHER_DOMAIN));
    const copy = folder.replace(DOMAIN, OTHER_DOMAIN);
    await cp(at(folder), at(copy), { recursive: true });
    const renamed = folder.replace('00000001', '00000009').replace(/1$/, '9');
    await rename(at(folder), at(renamed.replace(/^[^/]+/, DOMAIN)));
    assert.deepEqual(
      (await scan()).map(({ state, manifestJson }) => [state, manifestJson.length]),
      [
        [MOVED, 0],
        [MOVED, 0],
      ],
    );
  });

  describe('tells what is damaged:', () => {
    const cases: readonly (readonly [string, boolean, (folder: string) => Promise<unknown>, RegExp])[] = [
      ['no manifest', false, (f) => rm(at(f, 'manifest.json')), /manifest.json is missing/],
      ['half a manifest', false, (f) => truncate(at(f, 'manifest.json'), 40), /not JSON/],
      ['a manifest of nothing', false, (f) => writeFile(at(f, 'manifest.json'), '[]'), /manifest/],
      [
        'a huge manifest',
        false,
        (f) => writeFile(at(f, 'manifest.json'), Buffer.alloc(4 * 1024 * 1024, ' ')),
        /longer than/,
      ],
      ['no image', false, (f) => rm(at(f, 'vda.qcow2')), /vda.qcow2 is missing/],
      ['a short image', false, (f) => truncate(at(f, 'vda.qcow2'), 999), /has 999 bytes/],
      ['a long image', false, (f) => truncate(at(f, 'vda.qcow2'), 1_001), /has 1001 bytes/],
      [
        'a folder for an image',
        false,
        async (f) => {
          await rm(at(f, 'vda.qcow2'));
          await mkdir(at(f, 'vda.qcow2'));
        },
        /vda.qcow2 is missing/,
      ],
      [
        'a pipe for a manifest',
        false,
        async (f) => {
          await rm(at(f, 'manifest.json'));
          await execa('mkfifo', [at(f, 'manifest.json')]);
        },
        /manifest.json is missing/,
      ],
      [
        'a link for a manifest',
        false,
        async (f) => {
          await rm(at(f, 'manifest.json'));
          await symlink('/etc/passwd', at(f, 'manifest.json'));
        },
        /manifest.json is missing/,
      ],
      ['no domain', false, (f) => rm(at(f, 'domain.xml')), /domain.xml is missing/],
      ['no key', true, (f) => rm(at(f, 'key.k1.age')), /key is missing/],
      ['no MAC', true, (f) => rm(at(f, 'manifest.hmac')), /manifest.hmac is missing/],
    ];
    for (const [what, encrypted, spoil, expected] of cases) {
      it(what, async () => {
        const folder = await backup(1, encrypted);
        await spoil(folder);
        const { path, state, message, manifestJson } = await only();
        assert.deepEqual([path, state, manifestJson.length], [folder, DAMAGED, 0]);
        assert.match(message, expected);
      });
    }
  });

  it('sends many backups in batches that a message can hold', async () => {
    await Promise.all(Array.from({ length: 600 }, (_, index) => backup(index + 1)));
    const batches = await Array.fromAsync(scanRepository(repository, new AbortController().signal));
    assert.ok(batches.length >= 2);
    const paths = batches.flatMap(({ folders }) => folders.map(({ path }) => path));
    assert.equal(paths.length, 600);
    assert.deepEqual(paths, paths.toSorted());
  });

  it('ends when it is told to, and fails when the repository is not there', async () => {
    await backup(1);
    await assert.rejects(scan(AbortSignal.abort()), { reason: 'SHUTTING_DOWN' });
    const none = openLocal(at('none'));
    const signal = new AbortController().signal;
    await assert.rejects(Array.fromAsync(scanRepository(none, signal)), { reason: 'REPOSITORY_UNUSABLE' });
    none.close();
  });
});
