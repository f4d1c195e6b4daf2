import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import type { Manifest } from '@holdfast/proto/holdfast/v1/manifest.ts';
import { useHoldfast } from '../harness/fixture.ts';
import { succeeded } from '../harness/follow.ts';
import { MiB } from '../lab/spec.ts';
import { restoreResult } from './support/restored.ts';

const MAC = '52:54:00:12:34:56';

describe('what libvirt knows of a domain', () => {
  const fixture = useHoldfast({
    guest: {
      agent: false,
      start: false,
      disks: [
        { target: 'vda', sizeBytes: 16 * MiB },
        { target: 'hda', device: 'cdrom' },
      ],
      extraDevicesXml: `<interface type='user'><mac address='${MAC}'/><model type='virtio'/></interface>`,
    },
  });
  /** A new backup's manifest, and the file with snapshots and checkpoints. */
  const backUp = async (): Promise<{ backupId: string; manifest: Manifest; xml: string }> => {
    const { guest, holdfast } = fixture;
    const { client } = holdfast;
    const { backupId } = succeeded(await client.takeBackup({ zone: 'z1', domain: guest.name }));
    const { manifest, path: folder } = await client.getBackup(backupId);
    assert.ok(manifest);
    const file = manifest.libvirtMetadata?.file?.file;
    const xml =
      file === undefined ? '' : await readFile(path.join(holdfast.repository(), folder, file), 'utf8');
    return { backupId, manifest, xml };
  };

  it('is in the manifest: interfaces and all block devices', async () => {
    const { guest } = fixture;
    const { manifest, xml } = await backUp();
    const [disk] = guest.disks;
    assert.deepEqual(manifest.blockDevices, [
      { target: 'vda', type: 'file', device: 'disk', source: disk?.path },
      { target: 'hda', type: 'file', device: 'cdrom', source: '' },
    ]);
    assert.deepEqual(manifest.interfaces, [
      { target: '', type: 'user', source: '', model: 'virtio', mac: MAC },
    ]);
    assert.deepEqual(
      [manifest.nvram, manifest.tpm, manifest.libvirtMetadata, xml],
      [undefined, undefined, undefined, ''],
    );
  });

  it('is beside the images: snapshots of a stopped domain, checkpoints of a running one', async () => {
    const { lab, guest, holdfast } = fixture;
    const first = 'the first "one" & <only> ö';
    await lab.virsh(['snapshot-create-as', guest.uuid, first]);
    await lab.virsh(['snapshot-create-as', guest.uuid, 'second']);
    const stopped = await backUp();
    assert.deepEqual(stopped.manifest.libvirtMetadata?.snapshots, [first, 'second']);
    assert.deepEqual(stopped.manifest.libvirtMetadata.checkpoints, []);
    const dumped = await lab.virsh(['snapshot-dumpxml', guest.uuid, first]);
    assert.ok(stopped.xml.includes(dumped.trim()));
    assert.equal(stopped.xml.match(/<domainsnapshot>/g)?.length, 2);

    // It says what was. The restored image has no snapshots, and its domain starts without them.
    const directory = await holdfast.restoreDirectory();
    const request = { backupId: stopped.backupId, host: 'host-1', directory, domainName: 'second' };
    const { domainXmlPath } = restoreResult(await holdfast.client.restoreBackup(request));
    const restored = await lab.define(await readFile(domainXmlPath, 'utf8'));
    assert.equal((await lab.virsh(['snapshot-list', restored.uuid, '--name'])).trim(), '');
    await restored.start();
    await restored.destroy();

    for (const name of [first, 'second']) await lab.virsh(['snapshot-delete', guest.uuid, name]);
    await guest.start();
    await lab.virsh(['checkpoint-create-as', guest.uuid, 'point']);
    const running = await backUp();
    assert.deepEqual(running.manifest.libvirtMetadata?.snapshots, []);
    assert.deepEqual(running.manifest.libvirtMetadata.checkpoints, ['point']);
    assert.match(running.xml, /<domaincheckpoint>/);
    assert.equal((await lab.virsh(['checkpoint-list', guest.uuid, '--name'])).trim(), 'point');
  });
});
