import assert from 'node:assert/strict';
import { volumeId } from './volumeId.ts';

const ID = '53d5c355-d726-4d3e-9422-046a503a0b12';

describe('volumeId', () => {
  it('is the last part of a path or of a name on the network', async () => {
    for (const source of [`/mnt/pool/${ID}`, `/dev/vg/${ID}`, `cloudstack/${ID}`])
      assert.equal(await volumeId(source), ID);
  });

  it('is that of the LINSTOR resource behind a DRBD device', async () => {
    for (const source of [`/dev/drbd/by-res/cs-${ID}/0`, `/dev/drbd/by-res/${ID}/0`])
      assert.equal(await volumeId(source), ID);
  });

  it('refuses a DRBD device that udev knows no resource of', async () => {
    await assert.rejects(volumeId('/dev/drbd4711'), { reason: 'DISK_UNSUPPORTED' });
  });
});
