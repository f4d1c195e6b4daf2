import assert from 'node:assert/strict';
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { Decrypter } from 'age-encryption';
import { execa } from 'execa';
import type { Backup } from '@holdfast/proto/holdfast/v1/backup.ts';
import { useHoldfast } from '../harness/fixture.ts';
import { succeeded } from '../harness/follow.ts';
import { processesNaming } from '../harness/leftovers.ts';
import { filesDisk, restingDisk } from './support/guests.ts';
import { filesWith } from './support/marker.ts';

const PASSPHRASE = 'Eine Passphrase, die nirgends steht: äöü $(id) "x"';
/** How every age identity begins. */
const IDENTITY = 'AGE-SECRET-KEY-1';
/** Where a secret may lie in a file without touching a disk. */
const TMPFS = '/dev/shm';

describe('keys and secrets', () => {
  const fixture = useHoldfast({
    guest: { disks: [filesDisk, restingDisk(16)] },
    holdfast: { logLevel: 'debug' },
  });
  const encrypted = {
    'nas.backup.encryption.enabled': 'true',
    'nas.backup.encryption.passphrase': PASSPHRASE,
  };
  const compressed = { 'nas.backup.compression.enabled': 'true' };

  it('appear in no file, no log and no argument, during the run and after', async () => {
    const { lab, guest, holdfast } = fixture;
    const { client } = holdfast;
    await client.setSettings('z1', { ...encrypted, 'nas.backup.bandwidth.limit.mbps': '8' });
    const leaks = new Set<string>();
    let looks = 0;
    const look = async (): Promise<void> => {
      for (const directory of [holdfast.directory, path.join(lab.directory, 'log')]) {
        for (const file of await filesWith(directory, PASSPHRASE, IDENTITY)) {
          // Compiled code, which knows how a key begins.
          if (!file.includes('/compile-cache/')) leaks.add(file);
        }
      }
      for (const secret of [PASSPHRASE, IDENTITY]) {
        for (const { argv } of await processesNaming(secret)) leaks.add(argv.join(' '));
      }
      looks += 1;
    };
    const { backupId } = succeeded(
      await client.takeBackup({ zone: 'z1', domain: guest.name, settings: compressed }, async ({ event }) => {
        if (event?.$case === 'stageProgress' || event?.$case === 'stageStarted') await look();
      }),
    );
    succeeded(await client.verifyBackup({ backupId, passphrase: PASSPHRASE }, look));
    const directory = await holdfast.restoreDirectory();
    succeeded(await client.restoreBackup({ backupId, host: 'host-1', directory, disks: ['vdb'] }, look));
    await look();
    assert.deepEqual([...leaks], []);
    assert.ok(looks > 10, `${looks} looks`);

    const { zones } = client;
    const { settings } = await client.call(zones.getSettings.bind(zones), { zone: 'z1' });
    const passphrase = settings.find(({ key }) => key === 'nas.backup.encryption.passphrase');
    assert.deepEqual([passphrase?.value, passphrase?.hasValue], ['', true]);
    assert.ok(!JSON.stringify(settings).includes(PASSPHRASE));
    await client.setSettings('z1', { 'nas.backup.bandwidth.limit.mbps': '0' });

    await assert.rejects(client.verifyBackup({ backupId, passphrase: 'another' }), { reason: 'KEY_WRONG' });

    // What was looked for can be found: a look that sees nothing would pass everything.
    const planted = path.join(holdfast.directory, 'planted');
    await writeFile(planted, `${'x'.repeat(5_000_000)}${IDENTITY}`);
    await look();
    await rm(planted);
    assert.deepEqual([...leaks], [planted]);
  });

  for (const settings of [{}, compressed]) {
    const words = Object.keys(settings).length > 0 ? 'compressed and encrypted' : 'encrypted';
    it(`open a backup without Holdfast, by stock tools, the repository and the passphrase: ${words}`, async () => {
      const { guest, holdfast } = fixture;
      const { client } = holdfast;
      await client.setSettings('z1', encrypted);
      const { backupId } = succeeded(await client.takeBackup({ zone: 'z1', domain: guest.name, settings }));
      const backup = await client.getBackup(backupId);
      const directory = await mkdtemp(path.join(TMPFS, 'holdfast-keys-'));
      try {
        await requireOpen(holdfast.repository(), backup, guest.disks[1]?.path ?? '', directory);
      } finally {
        await rm(directory, { recursive: true });
      }
    });
  }
});

/** The zone's key by the passphrase, the backup's by the zone's, XML and images by the backup's. */
async function requireOpen(
  repository: string,
  backup: Backup,
  source: string,
  directory: string,
): Promise<void> {
  const { manifest } = backup;
  assert.ok(manifest?.encryption);
  const zoneKey = path.join(directory, 'zone.key');
  const key = path.join(directory, 'backup.key');
  const wrapped = path.join(repository, 'zone-keys', `${manifest.encryption.keyId}.age`);
  assert.match(
    (await readFile(wrapped)).subarray(0, 200).toString('latin1'),
    /^age-encryption\.org\/v1\n-> scrypt /,
  );
  assert.equal((await readdir(path.join(repository, 'zone-keys'))).length, 1);
  // Stock age reads a passphrase from a terminal alone, and there is none here.
  const decrypter = new Decrypter();
  decrypter.addPassphrase(PASSPHRASE);
  await writeFile(zoneKey, await decrypter.decrypt(await readFile(wrapped), 'text'), { mode: 0o600 });

  const folder = path.join(repository, backup.path);
  const age = (identity: string, file: string) =>
    execa('age', ['-d', '-i', identity, path.join(folder, file)], { stripFinalNewline: false });
  const { stdout: secret } = await age(zoneKey, manifest.encryption.wrappedKeyFile);
  assert.match(secret, /^AGE-SECRET-KEY-1[A-Z0-9]{58}$/);
  await writeFile(key, secret, { mode: 0o600 });
  const { stdout: xml } = await age(key, manifest.domainXmlFile);
  assert.match(xml, /<domain[^]*<name>guest-1<\/name>/);

  const disk = manifest.disks.find(({ target }) => target === 'vdb');
  assert.ok(disk);
  const file = path.join(folder, disk.file);
  const options =
    disk.layout === 'luks+qcow2'
      ? `driver=qcow2,file.driver=luks,file.key-secret=s0,file.file.driver=file,file.file.filename=${file}`
      : `driver=qcow2,encrypt.format=luks,encrypt.key-secret=s0,file.driver=file,file.filename=${file}`;
  const opened = path.join(directory, 'vdb.raw');
  const withKey = (secretFile: string) =>
    execa(
      'qemu-img',
      [
        'convert',
        '--object',
        `secret,id=s0,file=${secretFile}`,
        '--image-opts',
        options,
        '-O',
        'raw',
        opened,
      ],
      { reject: false },
    );
  assert.notEqual((await withKey(zoneKey)).exitCode, 0, 'another key does not open it');
  assert.equal((await withKey(key)).stderr, '');
  assert.ok((await readFile(opened)).equals(await readFile(source)));
}
