import assert from 'node:assert/strict';
import type { Element } from '@xmldom/xmldom';
import { readDomainXml } from './domainXml.ts';
import { restoredDomainXml, type NewImage } from './restoredXml.ts';
import { child, children, descendant, parseXml } from './xml.ts';

const UUID = '11111111-2222-3333-4444-555555555555';
const NEW_UUID = '99999999-2222-3333-4444-555555555555';
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
  ['vda', { kind: 'file', path: PATH, format: 'qcow2' }],
  ['vdb', { kind: 'file', path: '/restored/b.raw', format: 'raw' }],
]);

describe('a restored domain XML', () => {
  it('points each disk to its new image, and nothing of the old source is left', () => {
    const restored = readDomainXml(restoredDomainXml(ORIGINAL, IMAGES, undefined, undefined));
    const [a, b, cdrom] = restored.disks;
    assert.deepEqual(
      [a?.source, a?.format, a?.sourceType, a?.encryption],
      [PATH, 'qcow2', 'file', undefined],
    );
    assert.deepEqual([b?.source, b?.format, b?.sourceType], ['/restored/b.raw', 'raw', 'file']);
    assert.deepEqual([cdrom?.source, cdrom?.device], ['/iso', 'cdrom']);
    const text = restoredDomainXml(ORIGINAL, IMAGES, undefined, undefined);
    for (const stale of ['/d/a.raw', '/d/base', 'backingStore', 'luks', 'rbd', 'ceph', "id='7'", 'id="7"'])
      assert.equal(text.includes(stale), false, stale);
  });

  it('names an RBD image with its monitors, user and secret, as the source was named', () => {
    for (const secret of [{ uuid: UUID }, { usage: 'the <key>' }, undefined]) {
      const user = secret === undefined ? '' : 'vm';
      const cluster = { monitors: ['m:3300', '[fd00::1]:6789'], user, secret, confPath: '/etc/ceph/a.conf' };
      const image = { cluster, pool: 'p', namespace: 'n', name: 'old-vda' };
      const images = new Map<string, NewImage>([['vda', { kind: 'rbd', image, format: 'raw' }]]);
      const [disk] = readDomainXml(restoredDomainXml(ORIGINAL, images, undefined, undefined)).disks;
      assert.deepEqual(
        [disk?.sourceType, disk?.source, disk?.format, disk?.encryption, disk?.rbd],
        ['network', 'p/n/old-vda', 'raw', undefined, { cluster, snapshot: '' }],
      );
    }
  });

  it('keeps what is not about the source', () => {
    const devices = child(parseXml(restoredDomainXml(ORIGINAL, IMAGES, undefined, undefined)), 'devices');
    assert.ok(devices);
    const [disk] = children(devices, 'disk');
    assert.ok(disk);
    assert.equal(child(disk, 'driver')?.getAttribute('cache'), 'none');
    assert.equal(child(disk, 'target')?.getAttribute('bus'), 'virtio');
  });

  it('without a new name keeps name, UUID and addresses', () => {
    const text = restoredDomainXml(ORIGINAL, IMAGES, undefined, undefined);
    const { name, uuid } = readDomainXml(text);
    assert.deepEqual([name, uuid], ['old & "new"', UUID]);
    assert.match(text, /52:54:00:00:00:01/);
  });

  it('with a new name has a UUID of its own and no addresses, and stays well-formed whatever the name', () => {
    for (const name of ['copy', `<x> & "y" 'z' ]]> ö`, '-->', ' spaces ']) {
      const text = restoredDomainXml(ORIGINAL, IMAGES, { name, uuid: NEW_UUID }, undefined);
      const restored = readDomainXml(text);
      assert.equal(restored.name, name);
      assert.equal(restored.uuid, NEW_UUID);
      assert.equal(text.includes('<mac'), false);
      assert.match(text, /network="default"|network='default'/);
    }
  });

  describe('of a domain with UEFI and a TPM', () => {
    const machine = (nvram: string, firmware = ''): string =>
      ORIGINAL.replace('<devices>', `<os${firmware}><type>hvm</type>${nvram}</os><devices>`).replace(
        '</devices>',
        `<tpm model='tpm-crb'><backend type='emulator' version='2.0'><source type='dir' path='/tpm'/></backend></tpm>
         <tpm model='tpm-tis'><backend type='passthrough'><device path='/dev/tpm0'/></backend></tpm></devices>`,
      );
    const other = { name: 'other', uuid: NEW_UUID };
    const nvramOf = (text: string): Element | undefined => descendant(parseXml(text), ['os', 'nvram']);
    const OLD = `<nvram template='/t' format='raw'>/old_VARS.fd</nvram>`;
    const BY_SOURCE = `<nvram type='file' format='raw'><source file='/old_VARS.fd'/></nvram>`;

    it('points to the restored UEFI variables, however the original named its own', () => {
      for (const xml of [machine(OLD), machine(BY_SOURCE), machine('', " firmware='efi'")]) {
        for (const identity of [undefined, other]) {
          const text = restoredDomainXml(xml, IMAGES, identity, '/restored/<nvram> & "x".fd');
          assert.equal(nvramOf(text)?.textContent, '/restored/<nvram> & "x".fd');
          assert.equal(nvramOf(text)?.hasAttribute('type'), false);
          assert.equal(text.includes('old_VARS'), false);
        }
      }
      const kept = nvramOf(restoredDomainXml(machine(OLD), IMAGES, other, '/n'));
      assert.deepEqual([kept?.getAttribute('template'), kept?.getAttribute('format')], ['/t', 'raw']);
    });

    it('with a new name never shares those of the original', () => {
      const made = nvramOf(restoredDomainXml(machine(OLD), IMAGES, other, undefined));
      assert.deepEqual([made?.getAttribute('template'), made?.textContent], ['/t', '']);
      assert.equal(nvramOf(restoredDomainXml(machine(BY_SOURCE), IMAGES, other, undefined)), undefined);
      const same = nvramOf(restoredDomainXml(machine(OLD), IMAGES, undefined, undefined));
      assert.equal(same?.textContent, '/old_VARS.fd');
    });

    it("leaves an emulated TPM's state to libvirt, and a TPM of the host as it is", () => {
      const text = restoredDomainXml(machine(OLD), IMAGES, undefined, undefined);
      assert.equal(text.includes('path="/tpm"'), false);
      assert.match(text, /path="\/dev\/tpm0"/);
    });
  });
});
