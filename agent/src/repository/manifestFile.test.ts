import assert from 'node:assert/strict';
import { mkdir, readFile, rm, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import fc from 'fast-check';
import { HoldfastError } from '@holdfast/common/errors.ts';
import { Secret } from '@holdfast/common/secret.ts';
import { Manifest } from '@holdfast/proto/holdfast/v1/manifest.ts';
import { temporaryDirectory } from '../testing/directory.ts';
import { openLocal } from '../testing/repository.ts';
import { manifestMac, sha256 } from '@holdfast/common/manifestDigest.ts';
import { encodeManifest, parseManifest, readManifest } from './manifestFile.ts';
import type { Repository } from './repository.ts';

const KEY = new Secret(`AGE-SECRET-KEY-1${'Q'.repeat(58)}`);
const OTHER_KEY = new Secret(`AGE-SECRET-KEY-1${'P'.repeat(58)}`);
const PLAIN = Manifest.fromPartial({
  version: 1,
  backupId: 'b',
  domainName: 'a "b" \n ö',
  snapshotTime: new Date(1_700_000_000_000),
  disks: [{ target: 'vda', file: 'vda.qcow2', virtualSizeBytes: 2n ** 62n, storedBytes: 7n }],
  domainXmlFile: 'domain.xml',
  nvram: { format: 'raw', file: { file: 'nvram.fd', sha256: 'a', storedBytes: 1n } },
  tpm: { version: '2.0', state: { file: 'tpm2-00.permall', sha256: 'b', storedBytes: 2n } },
  libvirtMetadata: { snapshots: ['s'], file: { file: 'libvirt-metadata.xml', sha256: 'c', storedBytes: 3n } },
});
const SEALED = Manifest.fromPartial({
  ...PLAIN,
  encryption: { keyId: 'k', wrappedKeyFile: '', macFile: 'manifest.hmac' },
});

describe('a manifest', () => {
  let directory: Awaited<ReturnType<typeof temporaryDirectory>>;
  let repository: Repository;
  beforeEach(async () => {
    directory = await temporaryDirectory();
    await mkdir(at(''));
    repository = openLocal(directory.path);
  });
  afterEach(async () => {
    repository.close();
    await directory[Symbol.asyncDispose]();
  });
  const at = (name: string): string => join(directory.path, 'folder', name);
  const read = (secret?: Secret, digest = ''): Promise<Manifest> =>
    readManifest(repository, 'folder', { sha256: digest, secret });
  const write = async (manifest: Manifest, key?: Secret): Promise<Buffer> => {
    const bytes = encodeManifest(manifest);
    await writeFile(at('manifest.json'), bytes);
    if (key !== undefined) await writeFile(at('manifest.hmac'), `${manifestMac(bytes, key)}\n`);
    return bytes;
  };

  it('comes back as it was written', async () => {
    const bytes = await write(PLAIN);
    assert.deepEqual(await read(), PLAIN);
    assert.deepEqual(await read(undefined, sha256(bytes)), PLAIN);
  });

  it('comes back with its key', async () => {
    const bytes = await write(SEALED, KEY);
    assert.deepEqual(await read(KEY), SEALED);
    assert.deepEqual(await read(KEY, sha256(bytes)), SEALED);
  });

  it('is damaged when it is cut off, wherever', async () => {
    const { length } = await write(PLAIN);
    for (const keep of [0, 1, Math.floor(length / 2), length - 3]) {
      await write(PLAIN);
      await truncate(at('manifest.json'), keep);
      await assert.rejects(read(), { reason: 'BACKUP_DAMAGED' }, `${keep} bytes`);
    }
  });

  it('is damaged when it is not the one that the catalogue knows', async () => {
    const digest = sha256(await write(PLAIN));
    await write({ ...PLAIN, domainName: 'edited' });
    await assert.rejects(read(undefined, digest), { reason: 'BACKUP_DAMAGED', message: /SHA-256/ });
  });

  it('is damaged when an older one of the same backup is put back, whose MAC is as good', async () => {
    await write(SEALED, KEY);
    const older = [await readFile(at('manifest.json')), await readFile(at('manifest.hmac'))] as const;
    const digest = sha256(await write({ ...SEALED, domainName: 'newer' }, KEY));
    await writeFile(at('manifest.json'), older[0]);
    await writeFile(at('manifest.hmac'), older[1]);
    assert.deepEqual(await read(KEY), SEALED);
    await assert.rejects(read(KEY, digest), { reason: 'BACKUP_DAMAGED', message: /SHA-256/ });
  });

  it('is damaged when it was edited and only its MAC is known', async () => {
    await write(SEALED, KEY);
    await writeFile(at('manifest.json'), encodeManifest({ ...SEALED, domainName: 'edited' }));
    await assert.rejects(read(KEY), { reason: 'BACKUP_DAMAGED', message: /MAC/ });
  });

  it('says that the key is wrong when it can be nothing else', async () => {
    const digest = sha256(await write(SEALED, KEY));
    await assert.rejects(read(OTHER_KEY, digest), { reason: 'KEY_WRONG' });
    await assert.rejects(read(undefined, digest), { reason: 'KEY_WRONG' });
  });

  it('is damaged when its MAC is missing or cut off', async () => {
    await write(SEALED, KEY);
    await truncate(at('manifest.hmac'), 20);
    await assert.rejects(read(KEY), { reason: 'BACKUP_DAMAGED' });
    await rm(at('manifest.hmac'));
    await assert.rejects(read(KEY), { reason: 'BACKUP_DAMAGED' });
  });

  it('is damaged when encryption was edited away', async () => {
    const digest = sha256(await write(SEALED, KEY));
    await write(PLAIN);
    await assert.rejects(read(KEY, digest), { reason: 'BACKUP_DAMAGED' });
    await assert.rejects(read(KEY), { reason: 'BACKUP_DAMAGED' });
  });

  it('tells a backup that is not there from one without manifest', async () => {
    await assert.rejects(read(), { reason: 'BACKUP_DAMAGED', message: /missing/ });
    await rm(at(''), { recursive: true });
    await assert.rejects(read(), { reason: 'BACKUP_NOT_FOUND' });
  });

  it('is refused with another version, without fields, or with names that lead elsewhere', () => {
    const bad: unknown[] = [
      ...[null, 1, [], {}, 'text', { version: 2 }],
      Manifest.toJSON({ ...PLAIN, version: 2 }),
      Manifest.toJSON({ ...PLAIN, backupId: '' }),
      ...['', '/etc/passwd', '../x', 'a/b', '..', '.', '.hidden', 'a\0b'].flatMap((file) => [
        Manifest.toJSON({ ...PLAIN, domainXmlFile: file }),
        Manifest.toJSON({ ...PLAIN, disks: PLAIN.disks.map((disk) => ({ ...disk, file })) }),
        Manifest.toJSON(Manifest.fromPartial({ ...PLAIN, nvram: { file: { file } } })),
        Manifest.toJSON(Manifest.fromPartial({ ...PLAIN, tpm: { state: { file } } })),
        Manifest.toJSON(Manifest.fromPartial({ ...PLAIN, libvirtMetadata: { file: { file } } })),
      ]),
    ];
    for (const json of bad) {
      const text = JSON.stringify(json);
      assert.throws(() => parseManifest(Buffer.from(text), 'm'), { reason: 'BACKUP_DAMAGED' }, text);
    }
  });

  it('is a manifest or damaged, whatever the file holds', () => {
    const known = Manifest.toJSON(SEALED) as Record<string, unknown>;
    const edited = fc
      .tuple(fc.constantFrom(...Object.keys(known)), fc.jsonValue())
      .map(([key, value]) => JSON.stringify({ ...known, [key]: value }));
    fc.assert(
      fc.property(fc.oneof(fc.string(), fc.json(), edited), (text) => {
        try {
          parseManifest(Buffer.from(text), 'm');
          return true;
        } catch (error) {
          return error instanceof HoldfastError && error.reason === 'BACKUP_DAMAGED';
        }
      }),
      { numRuns: 2_000 },
    );
  });
});
