import assert from 'node:assert/strict';
import { readDomainXml } from './domainXml.ts';
import { restoredDomainXml, type NewImage } from './restoredXml.ts';
import { child, children, parseXml } from './xml.ts';

const UUID = '11111111-2222-3333-4444-555555555555';
const ORIGINAL = `<domain type='kvm' id='7'>
  <name>old &amp; "new"</name>
  <uuid>${UUID}</uuid>
  <devices>
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw' cache='none'/>
      <source file='/d/a.raw' index='1'><encryption format='luks'><secret uuid='u'/></encryption></source>
      <backingStore type='file'><format type='raw'/><source file='/d/base'/></backingStore>
      <target dev='vda' bus='virtio'/>
      <alias name='virtio-disk0'/>
    </disk>
    <disk type='network' device='disk'>
      <auth username='ceph'><secret type='ceph' uuid='u'/></auth>
      <source protocol='rbd' name='p/i'><host name='m'/></source>
      <target dev='vdb' bus='virtio'/>
    </disk>
    <disk type='file' device='cdrom'><source file='/iso'/><target dev='hda'/></disk>
    <interface type='network'><mac address='52:54:00:00:00:01'/><source network='default'/></interface>
    <interface type='bridge'><mac address='52:54:00:00:00:02'/></interface>
  </devices>
</domain>`;
const PATH = `/restored/<"',&\u00a0ö>.qcow2`;
const IMAGES = new Map<string, NewImage>([
  ['vda', { path: PATH, format: 'qcow2' }],
  ['vdb', { path: '/restored/b.raw', format: 'raw' }],
]);

describe('a restored domain XML', () => {
  it('points each disk to its new image, and nothing of the old source is left', () => {
    const restored = readDomainXml(restoredDomainXml(ORIGINAL, IMAGES, undefined));
    const [a, b, cdrom] = restored.disks;
    assert.deepEqual(
      [a?.source, a?.format, a?.sourceType, a?.encryption],
      [PATH, 'qcow2', 'file', undefined],
    );
    assert.deepEqual([b?.source, b?.format, b?.sourceType], ['/restored/b.raw', 'raw', 'file']);
    assert.deepEqual([cdrom?.source, cdrom?.device], ['/iso', 'cdrom']);
    const text = restoredDomainXml(ORIGINAL, IMAGES, undefined);
    for (const stale of ['/d/a.raw', '/d/base', 'backingStore', 'luks', 'rbd', 'ceph', "id='7'", 'id="7"'])
      assert.equal(text.includes(stale), false, stale);
  });

  it('keeps what is not about the source', () => {
    const devices = child(parseXml(restoredDomainXml(ORIGINAL, IMAGES, undefined)), 'devices');
    assert.ok(devices);
    const [disk] = children(devices, 'disk');
    assert.ok(disk);
    assert.equal(child(disk, 'driver')?.getAttribute('cache'), 'none');
    assert.equal(child(disk, 'target')?.getAttribute('bus'), 'virtio');
  });

  it('without a new name keeps name, UUID and addresses', () => {
    const text = restoredDomainXml(ORIGINAL, IMAGES, undefined);
    const { name, uuid } = readDomainXml(text);
    assert.deepEqual([name, uuid], ['old & "new"', UUID]);
    assert.match(text, /52:54:00:00:00:01/);
  });

  it('with a new name has a UUID of its own and no addresses, and stays well-formed whatever the name', () => {
    for (const name of ['copy', `<x> & "y" 'z' ]]> ö`, '-->', ' spaces ']) {
      const text = restoredDomainXml(ORIGINAL, IMAGES, name);
      const restored = readDomainXml(text);
      assert.equal(restored.name, name);
      assert.match(restored.uuid, /^[0-9a-f-]{36}$/);
      assert.notEqual(restored.uuid, UUID);
      assert.equal(text.includes('<mac'), false);
      assert.match(text, /network="default"|network='default'/);
    }
  });
});
