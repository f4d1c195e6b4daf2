import assert from 'node:assert/strict';
import { stat } from 'node:fs/promises';
import path from 'node:path';
import { execa } from 'execa';
import type { Backup } from '@holdfast/proto/holdfast/v1/backup.ts';
import { useHoldfast } from '../harness/fixture.ts';
import { succeeded } from '../harness/follow.ts';
import { MiB } from '../lab/spec.ts';

const PROGRAM = path.resolve(import.meta.dirname, '../../cli/bin/holdfast');

describe('statistics', () => {
  const fixture = useHoldfast({
    guest: {
      name: 'web',
      start: false,
      disks: [
        { target: 'vda', sizeBytes: 32 * MiB, content: { kind: 'pattern' } },
        { target: 'vdb', sizeBytes: 16 * MiB, format: 'raw', content: { kind: 'random', everyMiB: 4 } },
      ],
    },
  });
  const backups: Backup[] = [];
  /** What `holdfast` prints. */
  const typed = async (...args: string[]): Promise<string> => {
    const { address } = fixture.holdfast.controller;
    const controller = address.kind === 'unix' ? `unix://${address.path}` : '';
    return (await execa(PROGRAM, ['--controller', controller, ...args], { timeout: 60_000 })).stdout;
  };

  before(async () => {
    const { client } = fixture.holdfast;
    await client.setSettings('z1', { 'nas.backup.encryption.passphrase': 'for the backups' });
    const sealed = { 'nas.backup.compression.enabled': 'true', 'nas.backup.encryption.enabled': 'true' };
    for (const settings of [{}, sealed]) {
      const { backupId } = succeeded(await client.takeBackup({ zone: 'z1', domain: 'web', settings }));
      backups.push(await client.getBackup(backupId));
    }
  });

  it('of a backup are those of its disks, and of their files', async () => {
    for (const { manifest, path: folder, encrypted, ...backup } of backups) {
      assert.ok(manifest);
      for (const disk of manifest.disks) {
        const file = path.join(fixture.holdfast.repository(), folder, disk.file);
        assert.equal(BigInt((await stat(file)).size), disk.storedBytes);
        // What QEMU writes when it closes an image, a part of its metadata, comes after the copy.
        assert.ok(disk.transferredBytes > 0n && disk.transferredBytes <= disk.storedBytes);
        assert.ok(disk.storedBytes - disk.transferredBytes <= MiB);
        if (!encrypted) assert.ok(disk.transferredBytes >= disk.dataBytes);
      }
      const [vda, vdb] = manifest.disks;
      assert.deepEqual([vda?.dataBytes, vdb?.dataBytes], [BigInt(32 * MiB), BigInt(4 * MiB)]);
      assert.equal(backup.dataBytes, BigInt(36 * MiB));
      const transferred = manifest.disks.reduce((sum, disk) => sum + disk.transferredBytes, 0n);
      assert.equal(backup.transferredBytes, transferred);
      // And as the stage that writes to the repository reports it.
      const writer = manifest.stages.findLast((each) => ['convert', 'encrypt'].includes(each.stage));
      assert.equal(writer?.outputBytes, transferred);
    }
    const [plain, sealed] = backups;
    assert.ok(plain && sealed && sealed.transferredBytes < plain.transferredBytes);
  });

  it('of domain, zone and repository are their sums, with the space of the repository', async () => {
    const { guest, holdfast } = fixture;
    const { client } = holdfast;
    const { statistics } = client;
    const sum = (of: (backup: Backup) => bigint): bigint =>
      backups.reduce((total, backup) => total + of(backup), 0n);
    const expected = {
      backups: 2n,
      virtualSizeBytes: BigInt(2 * 48 * MiB),
      dataBytes: BigInt(2 * 36 * MiB),
      transferredBytes: sum((backup) => backup.transferredBytes),
      storedBytes: sum((backup) => backup.storedBytes),
      oldestSnapshotTime: backups[0]?.snapshotTime,
      newestSnapshotTime: backups[1]?.snapshotTime,
    };
    const { zones } = await client.call(statistics.listZoneStatistics.bind(statistics), { zone: '' });
    assert.deepEqual(zones, [{ zone: 'z1', domains: 1n, sums: expected }]);
    const { domains } = await client.call(statistics.listDomainStatistics.bind(statistics), {
      ...{ zone: '', domain: 'web', pageSize: 0, pageToken: '' },
    });
    assert.deepEqual(domains, [{ zone: 'z1', domainUuid: guest.uuid, domainName: 'web', sums: expected }]);

    const ask = { zone: '', repository: '' };
    const { repositories } = await client.call(statistics.listRepositoryStatistics.bind(statistics), ask);
    const [repository] = repositories;
    assert.deepEqual(repository?.sums, expected);
    const { space } = repository;
    assert.ok(space);
    const { stdout } = await execa('df', ['-B1', '--output=size,used', holdfast.repository()]);
    const [size, used] = (stdout.split('\n')[1] ?? '').trim().split(/\s+/).map(Number);
    assert.equal(Number(space.sizeBytes), size);
    assert.ok(Math.abs(Number(space.usedBytes) - (used ?? 0)) < 1024 * MiB, 'others use the disk meanwhile');
    assert.ok(space.freeBytes + space.usedBytes <= space.sizeBytes);
  });

  it('can be typed, as tables and as JSON', async () => {
    const { guest } = fixture;
    assert.match(await typed('stats', 'zone'), /^ZONE +DOMAINS +BACKUPS .*\nz1 +1 +2 +72\.0 MiB /);
    assert.match(await typed('stats', 'zone', 'z1'), /\nz1 /);
    const domain = await typed('stats', 'domain', 'web', '--zone', 'z1');
    assert.match(domain, new RegExp(`\nweb +${guest.uuid} +z1 +2 +72\\.0 MiB `));
    assert.match(await typed('stats', 'repository'), /\nnas-z1 +z1 +[\d.]+ [GT]iB .* 2 +72\.0 MiB .* -$/);
    const json = JSON.parse(await typed('--json', 'stats', 'repository', 'nas-z1')) as {
      sums: { transferredBytes: string };
      space: { usedBytes: string };
    };
    const transferred = backups.reduce((sum, backup) => sum + backup.transferredBytes, 0n);
    assert.equal(json.sums.transferredBytes, transferred.toString());
    assert.ok(BigInt(json.space.usedBytes) > 0n);
    const shown = await typed('show', backups[1]?.id ?? '');
    assert.match(shown, /DISK +SIZE +DATA +TRANSFERRED +STORED/);
    assert.match(shown, /\nSaved beside +nothing/);
  });

  it('forget a backup that is deleted', async () => {
    const { client } = fixture.holdfast;
    succeeded(await client.deleteBackup(backups[0]?.id ?? ''));
    const { statistics } = client;
    const { zones } = await client.call(statistics.listZoneStatistics.bind(statistics), { zone: 'z1' });
    assert.deepEqual(
      zones.map(({ sums }) => [sums?.backups, sums?.storedBytes]),
      [[1n, backups[1]?.storedBytes]],
    );
  });
});
