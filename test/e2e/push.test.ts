import assert from 'node:assert/strict';
import { useHoldfast } from '../harness/fixture.ts';
import { succeeded } from '../harness/follow.ts';
import { MiB } from '../lab/spec.ts';
import { nothingLeft } from '../faults/support/nothingLeft.ts';
import { PASSPHRASE } from './support/features.ts';
import { filesDisk } from './support/guests.ts';
import { requireSameContent } from './support/images.ts';

const push = { 'nas.backup.transport': 'push' };
const encrypted = {
  'nas.backup.encryption.enabled': 'true',
  'nas.backup.encryption.passphrase': PASSPHRASE,
};
const compressed = { 'nas.backup.compression.enabled': 'true' };

describe('a pushed backup', () => {
  const fixture = useHoldfast({
    lab: { qemuUser: 'libvirt-qemu', sharedMounts: true },
    guest: {
      disks: [
        filesDisk,
        // Thin, and ends within a cluster.
        {
          target: 'vdb',
          format: 'raw',
          sizeBytes: 200 * MiB + 1536,
          content: { kind: 'random', everyMiB: 4 },
        },
      ],
      writerMiBPerSecond: 1,
    },
  });
  afterEach(() => nothingLeft(fixture.lab, fixture.holdfast));

  for (const [how, settings] of [
    ['plain', {}],
    ['compressed', compressed],
    ['encrypted', encrypted],
    ['compressed and encrypted', { ...compressed, ...encrypted }],
  ] as const) {
    it(`is the same when restored, and as thin: ${how}`, async () => {
      const { guest, holdfast } = fixture;
      const { client, agent, restoreDirectory } = holdfast;
      const { backupId } = succeeded(
        await client.takeBackup({
          zone: 'z1',
          domain: guest.name,
          settings: { ...push, ...settings, 'nas.backup.integrity.check': 'true' },
        }),
      );
      const { manifest } = await client.getBackup(backupId);
      assert.equal(manifest?.transport, 'push');
      const thin = manifest.disks.find(({ target }) => target === 'vdb');
      console.log(manifest);
      assert.ok(thin);
      assert.equal(thin.virtualSizeBytes, BigInt(200 * MiB + 1536));
      const directory = await restoreDirectory();
      const request = { backupId, host: agent.hostName, directory };
      const result = succeeded(await client.restoreBackup(request)).result?.result;
      assert.equal(result?.$case, 'restore');
      const copy = result.value.disks.find(({ target }) => target === 'vdb');
      const source = guest.disks.find(({ target }) => target === 'vdb');
      assert.ok(copy && source);
      await requireSameContent(source, copy);
    });
  }
});
