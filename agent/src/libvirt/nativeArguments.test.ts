import assert from 'node:assert/strict';
import { domainDirectoryIn, nvramPathIn, stateDirectoryIn } from './nativeArguments.ts';

/** As libvirt 9.0 prints it, shortened. */
const native = (directory: string, nvram: string): string =>
  [
    `HOME=${directory}/domain--1-a \\`,
    '/usr/bin/qemu-system-x86_64 \\',
    `-object '{"qom-type":"secret","id":"masterKey0","format":"raw","file":"${directory}/domain--1-a/master-key.aes"}' \\`,
    `-blockdev '{"driver":"file","filename":"/usr/share/OVMF/OVMF_CODE_4M.fd","node-name":"libvirt-pflash0-storage"}' \\`,
    `-blockdev '{"driver":"file","filename":"${nvram}","node-name":"libvirt-pflash1-storage","discard":"unmap"}' \\`,
  ].join('\n');

describe("QEMU's arguments as libvirt prints them", () => {
  it('tell where libvirt keeps the state of domains', () => {
    assert.equal(stateDirectoryIn(native('/var/lib/libvirt/qemu', '/n')), '/var/lib/libvirt');
    assert.equal(
      stateDirectoryIn(native('/home/u/.config/libvirt/qemu/lib', '/n')),
      '/home/u/.config/libvirt/qemu',
    );
    assert.equal(stateDirectoryIn('/usr/bin/qemu-system-x86_64 -name a'), undefined);
  });

  it('tell the directory of a running domain', () => {
    const args =
      '-object\0{"qom-type":"secret","id":"masterKey0","format":"raw",' +
      '"file":"/var/lib/libvirt/qemu/domain-12-i-2-7-VM/master-key.aes"}\0-machine\0pc';
    assert.equal(domainDirectoryIn(args), '/var/lib/libvirt/qemu/domain-12-i-2-7-VM');
    assert.equal(domainDirectoryIn('-name\0guest=a'), undefined);
  });

  it('tell the file of UEFI variables, whatever its name', () => {
    for (const [printed, path] of [
      ['/var/lib/libvirt/qemu/nvram/a_VARS.fd', '/var/lib/libvirt/qemu/nvram/a_VARS.fd'],
      [String.raw`/n/b \"c\" \\ d`, String.raw`/n/b "c" \ d`],
      [`/n/o'\\''clock`, "/n/o'clock"],
    ] as const) {
      assert.equal(nvramPathIn(native('/d', printed)), path);
    }
    assert.equal(nvramPathIn('-blockdev {"filename":"/x","node-name":"libvirt-pflash0-storage"}'), undefined);
  });
});
