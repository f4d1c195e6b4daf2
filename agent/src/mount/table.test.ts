import assert from 'node:assert/strict';
import { mkdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { temporaryDirectory } from '../testing/directory.ts';
import { smallFileSystem } from '../testing/mount.ts';
import { deviceText, mountAt, parseMount } from './table.ts';

describe('the table of mounts', () => {
  it('is read as proc(5) describes it', () => {
    assert.deepEqual(
      parseMount(
        '36 35 98:0 /mnt1 /mnt\\0402\\134 rw,noatime master:1 - nfs4 nas:/a\\040b rw,vers=4.2,hard,addr=10.0.0.1',
      ),
      { point: '/mnt 2\\', fileSystem: 'nfs4', source: 'nas:/a b', device: '98:0', readOnly: false },
    );
    assert.equal(parseMount('36 35 0:5 / /m rw - cifs //n/s ro,vers=3.1.1')?.readOnly, true);
    assert.equal(parseMount('36 35 0:5 / /m ro shared:1 master:2 - cifs //n/s rw')?.readOnly, true);
    assert.equal(parseMount(''), undefined);
  });

  it('finds the topmost mount at an odd path, by the device that its files have', async () => {
    await using directory = await temporaryDirectory();
    const point = join(directory.path, `a b\t"c"\\,ö`);
    await mkdir(point);
    assert.equal(await mountAt(point), undefined);
    await using _below = await smallFileSystem(point, 'size=1M');
    await using _above = await smallFileSystem(point, 'size=1M,ro');
    const found = await mountAt(point);
    assert.equal(found?.readOnly, true);
    assert.equal(found.device, deviceText((await stat(point, { bigint: true })).dev));
  });
});
