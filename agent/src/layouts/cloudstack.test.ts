import assert from 'node:assert/strict';
import { cloudStackId } from './cloudstack.ts';

const ID = '53d5c355-d726-4d3e-9422-046a503a0b12';
const cluster = { monitors: [], user: '', secret: undefined, confPath: '' };
const plain = (source: string) => ({ source, rbd: undefined });

describe("CloudStack's id of a volume", () => {
  it('is the last part of its path or of its name in a pool', async () => {
    for (const source of [`/mnt/pool/${ID}`, `/dev/vg/${ID}`])
      assert.equal(await cloudStackId(plain(source)), ID);
    assert.equal(await cloudStackId({ source: `pool/${ID}`, rbd: { cluster, snapshot: '' } }), ID);
  });

  it('is that of the LINSTOR resource behind a DRBD device', async () => {
    for (const source of [`/dev/drbd/by-res/cs-${ID}/0`, `/dev/drbd/by-res/${ID}/0`])
      assert.equal(await cloudStackId(plain(source)), ID);
  });

  it('is none for a DRBD device that udev knows no resource of', async () => {
    await assert.rejects(cloudStackId(plain('/dev/drbd4711')), { reason: 'DISK_UNSUPPORTED' });
  });
});
