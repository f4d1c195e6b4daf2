import assert from 'node:assert/strict';
import { readdir } from 'node:fs/promises';
import path from 'node:path';
import { Stage } from '@holdfast/proto/holdfast/v1/event.ts';
import { useHoldfast } from '../harness/fixture.ts';
import { failed, succeeded } from '../harness/follow.ts';
import { MiB } from '../lab/spec.ts';
import { isFinish } from './support/events.ts';
import { filesDisk } from './support/guests.ts';

const QUIESCE = 'nas.backup.quiesce';

describe('quiescing', () => {
  describe('a guest with an agent', () => {
    const fixture = useHoldfast({ guest: { disks: [filesDisk], writerMiBPerSecond: 1 } });

    for (const mode of ['best-effort', 'required']) {
      it(`${mode}: the file systems are frozen for the snapshot, and thawed at once`, async () => {
        const { guest, holdfast } = fixture;
        const { client } = holdfast;
        let status: unknown;
        const followed = await client.takeBackup(
          { zone: 'z1', domain: guest.name, settings: { [QUIESCE]: mode } },
          async (event) => {
            if (isFinish(event, Stage.STAGE_QUIESCE)) status = await guest.command('guest-fsfreeze-status');
          },
        );
        const operation = succeeded(followed);
        const { manifest, quiesced } = await client.getBackup(operation.backupId);
        assert.equal(status, 'thawed');
        assert.equal(quiesced, true);
        assert.deepEqual(operation.warnings, []);
        assert.ok((manifest?.consistency?.frozenMs ?? 0n) > 0n);
        await guest.writeFile('/data/later.txt', mode);
        assert.equal(await guest.readFile('/data/later.txt'), mode);
      });
    }
  });

  describe('a guest without agent', () => {
    const fixture = useHoldfast({ guest: { disks: [filesDisk], agent: false } });

    it('best-effort: the backup is taken and says why it is crash-consistent only', async () => {
      const { guest, holdfast } = fixture;
      const { client } = holdfast;
      const followed = await client.takeBackup({
        zone: 'z1',
        domain: guest.name,
        settings: { [QUIESCE]: 'best-effort' },
      });
      const operation = succeeded(followed);
      assert.deepEqual(
        operation.warnings.map(({ reason }) => reason),
        ['NOT_QUIESCED'],
      );
      const { manifest, quiesced } = await client.getBackup(operation.backupId);
      assert.equal(quiesced, false);
      assert.match(manifest?.consistency?.message ?? '', /agent/i);
      assert.match(manifest?.warnings.join() ?? '', /agent/i);
    });

    it('required: the backup is refused, and the guest is left as it was', async () => {
      const { lab, guest, holdfast } = fixture;
      const { client } = holdfast;
      const folder = path.join(holdfast.repository(), guest.uuid);
      const before = await readdir(folder);
      const followed = await client.takeBackup({
        zone: 'z1',
        domain: guest.name,
        settings: { [QUIESCE]: 'required' },
      });
      const { reason, message } = failed(followed);
      assert.equal(reason, 'QUIESCE_FAILED');
      assert.match(message, /agent/i);
      assert.equal(await guest.state(), 'running');
      assert.match(await lab.virsh(['domjobinfo', guest.uuid]), /None/);
      assert.deepEqual(await readdir(folder), before);
    });
  });
});

describe('a domain with disks of all kinds', () => {
  const fixture = useHoldfast({
    guest: {
      disks: [
        filesDisk,
        { target: 'vdb', readOnly: true, sizeBytes: 8 * MiB },
        { target: 'vdc', transient: true, sizeBytes: 8 * MiB },
        { target: 'vdd', sizeBytes: 8 * MiB, content: { kind: 'pattern' } },
        { target: 'hda', device: 'cdrom', sizeBytes: MiB, content: { kind: 'pattern' } },
        { target: 'hdb', device: 'cdrom' },
        { target: 'fda', device: 'floppy', sizeBytes: 1_474_560, content: { kind: 'empty' } },
      ],
    },
  });

  for (const state of ['running', 'shut off']) {
    it(`is backed up without those that hold nothing of it, and says which: ${state}`, async () => {
      const { guest, holdfast } = fixture;
      const { client } = holdfast;
      if (state === 'shut off') await guest.shutdown();
      const operation = succeeded(await client.takeBackup({ zone: 'z1', domain: guest.name }));
      const { manifest } = await client.getBackup(operation.backupId);
      assert.deepEqual(manifest?.disks.map(({ target }) => target).toSorted(), ['vda', 'vdd']);
      const excluded = manifest.excludedDisks.map((disk) => [
        disk.target,
        disk.device,
        disk.reason,
        disk.source !== '',
        disk.message !== '',
      ]);
      assert.deepEqual(
        excluded.toSorted((left, right) => String(left).localeCompare(String(right))),
        [
          ['fda', 'floppy', 'FLOPPY', true, true],
          ['hda', 'cdrom', 'CDROM', true, true],
          ['hdb', 'cdrom', 'CDROM', false, true],
          ['vdb', 'disk', 'READ_ONLY', true, true],
          ['vdc', 'disk', 'TRANSIENT', true, true],
        ],
      );
      succeeded(await client.verifyBackup({ backupId: operation.backupId }));
    });
  }
});
