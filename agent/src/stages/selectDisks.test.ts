import assert from 'node:assert/strict';
import type { DomainDisk } from '../libvirt/domainXml.ts';
import { selectDisks } from './selectDisks.ts';

const disk = (target: string, rest: Partial<DomainDisk> = {}): DomainDisk => ({
  target,
  device: 'disk',
  sourceType: 'file',
  source: `/d/${target}`,
  format: 'qcow2',
  readOnly: false,
  transient: false,
  shareable: false,
  encryption: undefined,
  rbd: undefined,
  ...rest,
});

describe('the disks of a backup', () => {
  it('are those that a user expects; the others are listed with their reasons', () => {
    const { included, excluded } = selectDisks('d', [
      disk('vda'),
      disk('vdb', { shareable: true }),
      disk('vdc', { encryption: { format: 'luks', secretUuid: 'u', engine: 'qemu' } }),
      disk('hda', { device: 'cdrom', readOnly: true }),
      disk('hdb', { device: 'cdrom', source: '' }),
      disk('fda', { device: 'floppy', source: '' }),
      disk('sda', { device: 'lun', sourceType: 'block' }),
      disk('vdd', { source: '' }),
      disk('vde', { readOnly: true }),
      disk('vdf', { transient: true }),
    ]);
    assert.deepEqual(
      included.map(({ target }) => target),
      ['vda', 'vdb', 'vdc'],
    );
    assert.deepEqual(
      excluded.map(({ target, reason }) => `${target} ${reason}`),
      ['hda CDROM', 'hdb CDROM', 'fda FLOPPY', 'sda LUN', 'vdd NO_MEDIUM', 'vde READ_ONLY', 'vdf TRANSIENT'],
    );
    for (const each of excluded) assert.match(each.message, /^(is|has) /);
  });

  it('must be at least one', () => {
    assert.throws(() => selectDisks('a "b"\n', []), { reason: 'NO_DISKS' });
    assert.throws(() => selectDisks('d', [disk('hda', { device: 'cdrom' })]), {
      reason: 'NO_DISKS',
      message: /hda is a CD-ROM/,
    });
  });
});
