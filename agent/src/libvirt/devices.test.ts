import assert from 'node:assert/strict';
import { readBlockDevices, readInterfaces } from './devices.ts';

const DOMAIN = `<domain><devices>
  <disk type='file' device='disk'><source file='/d/a,b.qcow2'/><target dev='vda'/></disk>
  <disk type='network' device='disk'><source protocol='rbd' name='pool/image'/><target dev='vdb'/></disk>
  <disk type='file' device='cdrom'><target dev='hda'/></disk>
  <interface type='bridge'><mac address='52:54:00:00:00:01'/><source bridge='cloudbr0'/><target dev='vnet3'/>
    <model type='virtio'/></interface>
  <interface type='network'><mac address='52:54:00:00:00:02'/><source network='default' bridge='virbr0'/></interface>
  <interface type='direct'><source dev='eth0' mode='bridge'/></interface>
  <interface type='user'><mac address='52:54:00:00:00:03'/><model type='e1000'/></interface>
</devices></domain>`;

describe('the devices of a domain', () => {
  it('are its interfaces, as domiflist shows them', () => {
    assert.deepEqual(readInterfaces(DOMAIN), [
      { target: 'vnet3', type: 'bridge', source: 'cloudbr0', model: 'virtio', mac: '52:54:00:00:00:01' },
      { target: '', type: 'network', source: 'default', model: '', mac: '52:54:00:00:00:02' },
      { target: '', type: 'direct', source: 'eth0', model: '', mac: '' },
      { target: '', type: 'user', source: '', model: 'e1000', mac: '52:54:00:00:00:03' },
    ]);
  });

  it('are its block devices, as domblklist shows them', () => {
    assert.deepEqual(readBlockDevices(DOMAIN), [
      { target: 'vda', type: 'file', device: 'disk', source: '/d/a,b.qcow2' },
      { target: 'vdb', type: 'network', device: 'disk', source: 'pool/image' },
      { target: 'hda', type: 'file', device: 'cdrom', source: '' },
    ]);
  });

  it('are none without any', () => {
    assert.deepEqual(readInterfaces('<domain/>'), []);
    assert.deepEqual(readBlockDevices('<domain/>'), []);
  });
});
