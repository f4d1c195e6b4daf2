import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { readFile, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { execa } from 'execa';
import { useHoldfast } from '../harness/fixture.ts';
import { failed, succeeded } from '../harness/follow.ts';
import type { Lab } from '../lab/lab.ts';
import { MiB, type GuestDisk } from '../lab/spec.ts';
import { filesDisk } from './support/guests.ts';
import { imageInfo, requireSameContent } from './support/images.ts';

const VOLUME_KEY = 'the key of the volume';

describe('a source volume that is encrypted', () => {
  const fixture = useHoldfast({ guest: { disks: [filesDisk], start: false } });
  let plain: GuestDisk;
  let luks: string;
  let secret: string;

  before(async () => {
    const { lab, guest } = fixture;
    plain = await lab.disk({
      target: 'vdb',
      format: 'raw',
      sizeBytes: 16 * MiB,
      content: { kind: 'pattern' },
    });
    luks = path.join(lab.directory, 'disks/volume.luks');
    await encrypt(plain.path ?? '', luks);
    secret = await defineSecret(lab);
    const disk = `<disk type='file' device='disk'><driver name='qemu' type='raw'/>
      <source file='${luks}'><encryption format='luks'><secret type='passphrase' uuid='${secret}'/></encryption></source>
      <target dev='vdb' bus='virtio'/></disk>`;
    await lab.define((await guest.xml(['--inactive'])).replace('</devices>', `${disk}</devices>`));
    const { client } = fixture.holdfast;
    await client.setSettings('z1', { 'nas.backup.encryption.passphrase': 'for the backups' });
  });

  for (const state of ['shut off', 'running']) {
    it(`is not written in plain text unless that is wanted: ${state}`, async () => {
      const { guest, holdfast } = fixture;
      const { client } = holdfast;
      if (state === 'running') {
        await guest.start();
        await guest.waitReady();
      }
      const request = { zone: 'z1', domain: guest.name };
      const { reason, message } = failed(await client.takeBackup(request));
      assert.equal(reason, 'SOURCE_ENCRYPTED');
      assert.match(message, /vdb/);

      const encrypted = { settings: { 'nas.backup.encryption.enabled': 'true' } };
      for (const wanted of [{ allowPlaintext: true }, encrypted]) {
        const { backupId } = succeeded(await client.takeBackup({ ...request, ...wanted }));
        const { manifest } = await client.getBackup(backupId);
        const encryption = manifest?.disks.map((disk) => [
          disk.target,
          disk.sourceEncrypted,
          disk.sourceSecretUuid,
        ]);
        assert.deepEqual(encryption, [
          ['vda', false, ''],
          ['vdb', true, secret],
        ]);
        const directory = await holdfast.restoreDirectory();
        const restored = await client.restoreBackup({ backupId, host: 'host-1', directory, disks: ['vdb'] });
        const result = succeeded(restored).result?.result;
        assert.equal(result?.$case, 'restore');
        const [disk] = result.value.disks;
        assert.ok(disk);
        assert.notEqual((await imageInfo(disk.path)).encrypted, true);
        await requireSameContent(plain, disk);
      }
    });
  }

  it('comes back in a domain that starts, without the secret of the volume', async () => {
    const { lab, guest, holdfast } = fixture;
    const { client } = holdfast;
    const settings = { 'nas.backup.encryption.enabled': 'true' };
    const { backupId } = succeeded(await client.takeBackup({ zone: 'z1', domain: guest.name, settings }));
    const directory = await holdfast.restoreDirectory();
    const request = { backupId, host: 'host-1', directory, domainName: 'elsewhere' };
    const result = succeeded(await client.restoreBackup(request)).result?.result;
    assert.equal(result?.$case, 'restore');
    await guest.destroy();
    await lab.virsh(['secret-undefine', secret]);
    await assert.rejects(guest.start(), /secret/);

    const restored = await lab.define(await readFile(result.value.domainXmlPath, 'utf8'));
    await restored.start();
    await restored.waitReady();
    const { stdout } = await restored.exec(['/bin/head', '-c', '27', '/dev/vdb']);
    assert.equal(stdout, 'This is byte 0 of the disk.');
    await restored.destroy();
  });
});

async function encrypt(plain: string, luks: string): Promise<void> {
  const keyFile = `${luks}.key`;
  await writeFile(keyFile, VOLUME_KEY, { mode: 0o600 });
  const options = 'key-secret=s0,iter-time=10';
  const args = [
    'convert',
    '--object',
    `secret,id=s0,file=${keyFile}`,
    '-f',
    'raw',
    '-O',
    'luks',
    '-o',
    options,
  ];
  // QEMU measures its key derivation by CPU time and gives up when that is too little.
  for (let attempt = 1; ; attempt++) {
    const { exitCode, stderr } = await execa('qemu-img', [...args, plain, luks], { reject: false });
    if (exitCode === 0) break;
    if (attempt === 10 || !stderr.includes('accurate CPU usage')) throw new Error(stderr);
  }
  await rm(keyFile);
}

/** A secret that libvirt knows for the volume; returns its UUID. */
async function defineSecret(lab: Lab): Promise<string> {
  const uuid = randomUUID();
  const xml = path.join(lab.directory, 'secret.xml');
  await writeFile(xml, `<secret ephemeral='no' private='no'><uuid>${uuid}</uuid></secret>`);
  await lab.virsh(['secret-define', xml]);
  await rm(xml);
  await lab.virsh(['secret-set-value', uuid, Buffer.from(VOLUME_KEY).toString('base64')]);
  return uuid;
}
