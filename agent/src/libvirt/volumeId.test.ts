import assert from 'node:assert/strict';
import { mkdir, symlink } from 'node:fs/promises';
import { join } from 'node:path';
import { temporaryDirectory } from '../testing/directory.ts';
import { volumeIdOf } from './volumeId.ts';

const id = (source: string, byResource?: string): Promise<string> =>
  volumeIdOf({ source, rbd: undefined }, byResource);

describe("a volume's own id", () => {
  it('is the resource of a DRBD device, by whichever path', async () => {
    await using directory = await temporaryDirectory();
    await mkdir(join(directory.path, 'cs-1a2b'));
    await symlink('/dev/drbd1017', join(directory.path, 'cs-1a2b/0'));
    assert.equal(await id('/dev/drbd/by-res/cs-1a2b/0'), 'cs-1a2b');
    assert.equal(await id('/dev/drbd1017', directory.path), 'cs-1a2b');
    assert.equal(await id('/dev/drbd1018', directory.path), '');
    assert.equal(await id('/dev/drbd1017', join(directory.path, 'nothing')), '');
  });

  it('is the image of an RBD source, and nothing for a path', async () => {
    const cluster = { monitors: [], user: '', secret: undefined, confPath: '' };
    assert.equal(await volumeIdOf({ source: 'pool/image', rbd: { cluster, snapshot: '' } }), 'pool/image');
    for (const path of ['/d/a.qcow2', '/dev/vg/lv', '/dev/drbd/by-res/a/b/0', '/dev/drbd/by-disk/sda'])
      assert.equal(await id(path), '', path);
  });
});
