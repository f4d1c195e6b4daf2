import assert from 'node:assert/strict';
import { ImageFormat } from '@holdfast/proto/holdfast/v1/backup.ts';
import { useHoldfast } from '../harness/fixture.ts';
import { succeeded } from '../harness/follow.ts';
import { GiB, MiB } from '../lab/spec.ts';
import { filesDisk } from './support/guests.ts';
import { allocatedBytes, requireSameContent } from './support/images.ts';

/** 4 MiB of data on a disk of 1 GiB. */
const DATA = 4 * MiB;
const ROOM = 2 * MiB;

describe('a thin disk', () => {
  const fixture = useHoldfast({
    lab: { qemuUser: 'libvirt-qemu' },
    guest: {
      disks: [
        filesDisk,
        { target: 'vdb', format: 'raw', sizeBytes: GiB, content: { kind: 'random', everyMiB: 256 } },
        { target: 'vdc', format: 'qcow2', sizeBytes: GiB, content: { kind: 'random', everyMiB: 256 } },
      ],
    },
  });

  // A host whose QEMU runs as a user of its own, as it does everywhere but in a lab.
  for (const state of ['running', 'shut off']) {
    it(`stays thin in the backup and after a restore, with QEMU as libvirt-qemu: ${state}`, async () => {
      const { guest, holdfast } = fixture;
      const { client } = holdfast;
      if (state === 'shut off') await guest.shutdown();
      const { backupId } = succeeded(await client.takeBackup({ zone: 'z1', domain: guest.name }));
      const { manifest } = await client.getBackup(backupId);
      const thin = manifest?.disks.filter(({ target }) => target !== 'vda') ?? [];
      assert.equal(thin.length, 2);
      for (const disk of thin) {
        assert.equal(disk.virtualSizeBytes, BigInt(GiB));
        assert.equal(disk.dataBytes, BigInt(DATA), disk.target);
        assert.ok(disk.storedBytes >= DATA && disk.storedBytes <= DATA + ROOM, `${disk.storedBytes} stored`);
      }
      for (const format of [ImageFormat.IMAGE_FORMAT_QCOW2, ImageFormat.IMAGE_FORMAT_RAW]) {
        const directory = await holdfast.restoreDirectory();
        const request = { backupId, host: 'host-1', directory, format, disks: ['vdb', 'vdc'] };
        const result = succeeded(await client.restoreBackup(request)).result?.result;
        assert.equal(result?.$case, 'restore');
        for (const disk of result.value.disks) {
          const allocated = await allocatedBytes(disk.path);
          assert.ok(allocated >= DATA && allocated <= DATA + ROOM, `${disk.path}: ${allocated}`);
          const source = guest.disks.find(({ target }) => target === disk.target);
          assert.ok(source);
          await requireSameContent(source, disk);
        }
      }
    });
  }
});
