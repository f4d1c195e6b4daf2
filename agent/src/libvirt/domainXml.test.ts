import assert from 'node:assert/strict';
import fc from 'fast-check';
import { readDomainXml, type DomainDisk } from './domainXml.ts';

const PLAIN: DomainDisk = {
  target: 'vda',
  device: 'disk',
  sourceType: 'file',
  source: '/d/a.qcow2',
  format: 'qcow2',
  readOnly: false,
  transient: false,
  shareable: false,
  encryption: undefined,
  rbd: undefined,
};

describe('a domain XML', () => {
  const disks: readonly (readonly [string, string, Partial<DomainDisk>])[] = [
    [
      'a plain disk',
      `<disk type='file' device='disk'><driver type='qcow2'/><source file='/d/a.qcow2'/><target dev='vda'/></disk>`,
      {},
    ],
    [
      'a disk that says the least',
      `<disk><source file='/d/a.qcow2'/><target dev='vda'/></disk>`,
      { format: 'raw' },
    ],
    [
      'a hostile path',
      `<disk><driver type='qcow2'/><source file='/d/&lt;&quot;&apos;,&amp;&#10; ö&gt;'/><target dev='vda'/></disk>`,
      { source: `/d/<"',&\n ö>` },
    ],
    [
      'a CD-ROM without medium',
      `<disk device='cdrom'><driver type='raw'/><target dev='hda'/><readonly/></disk>`,
      { target: 'hda', device: 'cdrom', source: '', format: 'raw', readOnly: true },
    ],
    [
      'a floppy',
      `<disk device='floppy'><source file='/f'/><target dev='fda'/></disk>`,
      { target: 'fda', device: 'floppy', source: '/f', format: 'raw' },
    ],
    [
      'a block device',
      `<disk type='block'><driver type='raw'/><source dev='/dev/vg/lv'/><target dev='vda'/></disk>`,
      { sourceType: 'block', source: '/dev/vg/lv', format: 'raw' },
    ],
    [
      'a network disk',
      `<disk type='network'><driver type='raw'/><source protocol='rbd' name='pool/image'><host name='m'/></source><target dev='vda'/></disk>`,
      {
        sourceType: 'network',
        source: 'pool/image',
        format: 'raw',
        rbd: { cluster: { monitors: ['m:6789'], user: '', secret: undefined, confPath: '' }, snapshot: '' },
      },
    ],
    [
      'RBD with a user, and monitors with ports and IPv6 addresses',
      `<disk type='network'><auth username='vm'><secret type='ceph' uuid='u'/></auth><source protocol='rbd' name='pool/ns/image'><host name='m' port='3300'/><host name='fd00::1'/><snapshot name='s'/><config file='/c'/></source><target dev='vda'/></disk>`,
      {
        sourceType: 'network',
        source: 'pool/ns/image',
        format: 'raw',
        rbd: {
          cluster: {
            monitors: ['m:3300', '[fd00::1]:6789'],
            user: 'vm',
            secret: { uuid: 'u' },
            confPath: '/c',
          },
          snapshot: 's',
        },
      },
    ],
    [
      'RBD with its user inside of the source, and the name of a secret',
      `<disk type='network'><source protocol='rbd' name='p/i'><auth username='vm'><secret type='ceph' usage='the key'/></auth></source><target dev='vda'/></disk>`,
      {
        sourceType: 'network',
        source: 'p/i',
        format: 'raw',
        rbd: {
          cluster: { monitors: [], user: 'vm', secret: { usage: 'the key' }, confPath: '' },
          snapshot: '',
        },
      },
    ],
    [
      'a disk of a storage pool',
      `<disk type='volume'><driver type='qcow2'/><source pool='p' volume='v'/><target dev='vda'/></disk>`,
      { sourceType: 'volume', source: 'v' },
    ],
    [
      'an encrypted source',
      `<disk><driver type='qcow2'/><source file='/d/a.qcow2'><encryption format='luks'><secret type='passphrase' uuid='u'/></encryption></source><target dev='vda'/></disk>`,
      { encryption: { format: 'luks', secretUuid: 'u', engine: 'qemu' } },
    ],
    [
      'encryption in its old place',
      `<disk><driver type='qcow2'/><source file='/d/a.qcow2'/><target dev='vda'/><encryption format='luks'><secret uuid='u'/></encryption></disk>`,
      { encryption: { format: 'luks', secretUuid: 'u', engine: 'qemu' } },
    ],
    [
      'a transient, shareable, read-only one',
      `<disk><driver type='qcow2'/><source file='/d/a.qcow2'/><target dev='vda'/><transient/><shareable/><readonly/></disk>`,
      { transient: true, shareable: true, readOnly: true },
    ],
    [
      'a chain, of which only the top counts',
      `<disk><driver type='qcow2'/><source file='/d/a.qcow2'/><backingStore type='file'><format type='raw'/><source file='/d/base'/></backingStore><target dev='vda'/></disk>`,
      {},
    ],
  ];
  for (const [name, xml, expected] of disks) {
    it(`shows ${name}`, () => {
      const text = `<domain><uuid>u</uuid><name>n</name><devices>${xml}</devices></domain>`;
      assert.deepEqual(readDomainXml(text).disks, [{ ...PLAIN, ...expected }]);
    });
  }

  it('keeps any name as it is', () => {
    // What XML 1.0 can hold at all; libvirt refuses the rest.
    const character = fc.integer({ min: 0x20, max: 0x2ff }).map((code) => String.fromCodePoint(code));
    fc.assert(
      fc.property(fc.string({ unit: character }), (name) => {
        const escaped = Array.from(name, (each) => `&#${each.codePointAt(0) ?? 0};`).join('');
        // C1 controls are allowed by XML 1.0.
        return readDomainXml(`<domain><name>${escaped}</name></domain>`).name === name;
      }),
    );
  });

  it('does not take the name or UUID of something inside for the domain’s', () => {
    const xml = `<domain><metadata><name>x</name><uuid>y</uuid></metadata><name>n</name><uuid>u</uuid></domain>`;
    const { name, uuid, disks: found } = readDomainXml(xml);
    assert.deepEqual([name, uuid, found], ['n', 'u', []]);
  });

  it('tells who QEMU runs as', () => {
    const owner = (label: string): unknown =>
      readDomainXml(`<domain><seclabel model='dac'><label>${label}</label></seclabel></domain>`).qemuOwner;
    assert.deepEqual(owner('+64055:+108'), { uid: 64055, gid: 108 });
    assert.deepEqual(owner('0:0'), { uid: 0, gid: 0 });
    assert.equal(owner('libvirt-qemu:kvm'), undefined);
    assert.equal(
      readDomainXml(`<domain><seclabel model='apparmor'><label>1:1</label></seclabel></domain>`).qemuOwner,
      undefined,
    );
  });

  it('that is cut off is refused', () => {
    assert.throws(() => readDomainXml('<domain><name>n</name><devices><disk>'));
    assert.throws(() => readDomainXml(''));
  });
});
