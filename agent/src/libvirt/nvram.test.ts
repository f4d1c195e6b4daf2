import assert from 'node:assert/strict';
import { scriptedVirsh } from '../testing/virsh.ts';
import { findNvram } from './nvram.ts';

const NATIVE = `-blockdev '{"filename":"/made/a_VARS.fd","node-name":"libvirt-pflash1-storage"}'`;
const libvirt = scriptedVirsh(([command]) => (command === 'domxml-to-native' ? { stdout: NATIVE } : {}));
const find = (os: string): ReturnType<typeof findNvram> =>
  findNvram(libvirt, 'u', `<domain>${os}<devices/></domain>`);

describe('the UEFI variables of a domain', () => {
  it('are where its XML says', async () => {
    const text = await find("<os><loader type='pflash'/><nvram template='/t'> /n/a b.fd </nvram></os>");
    assert.deepEqual(text, { path: '/n/a b.fd', format: 'raw' });
    const source = await find("<os><nvram type='file' format='qcow2'><source file='/n.qcow2'/></nvram></os>");
    assert.deepEqual(source, { path: '/n.qcow2', format: 'qcow2' });
  });

  it('are where libvirt will make them, when the XML leaves it to libvirt', async () => {
    for (const os of ["<os firmware='efi'/>", "<os firmware='efi'><nvram template='/t'/></os>"])
      assert.deepEqual(await find(os), { path: '/made/a_VARS.fd', format: 'raw' });
  });

  it('are known to be there when they are in no file', async () => {
    const os = "<os><nvram type='network'><source protocol='iscsi' name='iqn'/></nvram></os>";
    assert.deepEqual(await find(os), { path: undefined, format: 'raw' });
  });

  it('are none with a BIOS', async () => {
    for (const os of ['', '<os/>', "<os firmware='bios'/>", "<os><loader type='rom'>/r</loader></os>"])
      assert.equal(await find(os), undefined);
  });
});
