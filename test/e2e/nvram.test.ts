import assert from 'node:assert/strict';
import { readdir, readFile, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { useHoldfast } from '../harness/fixture.ts';
import { failed, succeeded } from '../harness/follow.ts';
import { beforeText } from '../lab/spec.ts';
import { filesDisk } from './support/guests.ts';
import { restoreResult, warnings } from './support/restored.ts';

const TEMPLATE = '/usr/share/OVMF/OVMF_VARS_4M.fd';
const sealed = {
  'nas.backup.compression.enabled': 'true',
  'nas.backup.encryption.enabled': 'true',
};

describe('a domain with UEFI', () => {
  const fixture = useHoldfast({
    guest: { disks: [filesDisk], firmware: 'uefi' },
    holdfast: { agents: [{ zone: 'z1', inside: true }] },
  });
  /** Where libvirt keeps the variables, as seen from here. */
  const nvramOf = (name: string): string =>
    path.join(fixture.lab.directory, `lib/qemu/nvram/${name}_VARS.fd`);
  const inBackup = async (file: string): Promise<string> => {
    const repository = fixture.holdfast.repository();
    const names = await readdir(repository, { recursive: true });
    return path.join(repository, names.find((name) => path.basename(name) === file) ?? `no ${file}`);
  };
  before(async () => {
    const { client } = fixture.holdfast;
    await client.setSettings('z1', { 'nas.backup.encryption.passphrase': 'for the backups' });
  });

  it('comes back with its variables from a backup while it ran, and shares none of them', async () => {
    const { lab, guest, holdfast } = fixture;
    const { client } = holdfast;
    const original = await readFile(nvramOf(guest.name));
    // The firmware wrote to them when it booted, so that they cannot be mistaken for new ones.
    assert.equal(original.equals(await readFile(TEMPLATE)), false);

    const taken = await client.takeBackup({ zone: 'z1', domain: guest.name, settings: sealed });
    const { backupId } = succeeded(taken);
    assert.deepEqual(warnings(taken), []);
    const { manifest } = await client.getBackup(backupId);
    assert.deepEqual([manifest?.nvram?.format, manifest?.nvram?.file?.file], ['raw', 'nvram.fd.age']);
    // Encrypted: a run of erased flash, which is all that most of it is, is not to be found.
    const stored = await readFile(await inBackup('nvram.fd.age'));
    assert.equal(stored.includes(Buffer.alloc(64, 0xff)), false);
    succeeded(await client.verifyBackup({ backupId }));

    const directory = await holdfast.restoreDirectory();
    const request = { backupId, host: 'host-1', directory, domainName: 'second' };
    const { domainXmlPath, nvramPath } = restoreResult(await client.restoreBackup(request));
    assert.equal(nvramPath, path.join(directory, 'second-nvram.fd'));
    assert.ok(original.equals(await readFile(nvramPath)));

    await guest.destroy();
    const before = await readFile(nvramOf(guest.name));
    const restored = await lab.define(await readFile(domainXmlPath, 'utf8'));
    assert.ok((await restored.xml()).includes(`>${nvramPath}</nvram>`));
    await restored.start();
    await restored.waitReady(120_000);
    assert.equal(await restored.readFile('/data/before.txt'), beforeText);
    const { stdout } = await restored.exec(['/bin/ls', '/sys/firmware/efi']);
    assert.match(stdout, /runtime/);
    await restored.destroy();
    assert.ok(before.equals(await readFile(nvramOf(guest.name))));
  });

  it('comes back with its variables from a backup of the stopped domain, under its own name', async () => {
    const { lab, guest, holdfast } = fixture;
    const { client } = holdfast;
    assert.equal(await guest.state(), 'shut off');
    const original = await readFile(nvramOf(guest.name));
    const taken = await client.takeBackup({ zone: 'z1', domain: guest.name });
    assert.deepEqual(warnings(taken), []);
    const { backupId } = succeeded(taken);
    assert.ok(original.equals(await readFile(await inBackup('nvram.fd'))));

    // As after the loss of the host's disk.
    await lab.virsh(['undefine', guest.uuid, '--nvram']);
    const directory = await holdfast.restoreDirectory();
    const { domainXmlPath, nvramPath } = restoreResult(
      await client.restoreBackup({ backupId, host: 'host-1', directory }),
    );
    assert.ok(original.equals(await readFile(nvramPath)));
    const restored = await lab.define(await readFile(domainXmlPath, 'utf8'));
    assert.equal(restored.uuid, guest.uuid);
    // That such a domain boots is shown above, and takes its time.
    await restored.start();
    assert.equal(await restored.state(), 'running');
    await restored.destroy();
  });

  it('is known by its firmware when a stopped one leaves the file to libvirt', async () => {
    const { lab, guest, holdfast } = fixture;
    const { client } = holdfast;
    const xml = (await guest.xml(['--inactive']))
      .replace('<os>', "<os firmware='efi'>")
      .replace(/<loader .*<\/loader>/, "<firmware><feature enabled='no' name='secure-boot'/></firmware>")
      .replace(/<nvram.*<\/nvram>/, '');
    await lab.define(xml);
    await guest.start();
    await guest.destroy();
    assert.doesNotMatch(await guest.xml(), /<nvram/);

    const { backupId } = succeeded(await client.takeBackup({ zone: 'z1', domain: guest.name }));
    const directory = await holdfast.restoreDirectory();
    const request = { backupId, host: 'host-1', directory, domainName: 'third' };
    const { domainXmlPath, nvramPath } = restoreResult(await client.restoreBackup(request));
    assert.ok((await readFile(nvramOf(guest.name))).equals(await readFile(nvramPath)));
    const restored = await lab.define(await readFile(domainXmlPath, 'utf8'));
    await restored.start();
    assert.ok((await restored.xml()).includes(`>${nvramPath}</nvram>`));
    await restored.destroy();

    const stored = path.join(holdfast.repository(), (await client.getBackup(backupId)).path, 'nvram.fd');
    const bytes = await readFile(stored);
    await writeFile(stored, bytes.subarray(1));
    assert.equal(failed(await client.verifyBackup({ backupId })).reason, 'BACKUP_DAMAGED');
    const again = await holdfast.restoreDirectory();
    const refused = failed(await client.restoreBackup({ ...request, directory: again }));
    assert.equal(refused.reason, 'BACKUP_DAMAGED');
    assert.deepEqual(await readdir(again), []);
  });

  it('is backed up with a warning when they are lost', async () => {
    const { guest, holdfast } = fixture;
    await guest.start();
    await rm(nvramOf(guest.name));
    const taken = await holdfast.client.takeBackup({ zone: 'z1', domain: guest.name });
    assert.deepEqual(warnings(taken), ['NVRAM_NOT_SAVED']);
    const { manifest } = await holdfast.client.getBackup(succeeded(taken).backupId);
    assert.equal(manifest?.nvram, undefined);
    assert.match(manifest?.warnings[0] ?? '', /_VARS\.fd is not there/);
  });
});
