import assert from 'node:assert/strict';
import { readdir, readFile } from 'node:fs/promises';
import path from 'node:path';
import { ImageFormat } from '@holdfast/proto/holdfast/v1/backup.ts';
import type { RestoreResult } from '@holdfast/proto/holdfast/v1/event.ts';
import { useHoldfast } from '../harness/fixture.ts';
import { failed, succeeded, type Followed } from '../harness/follow.ts';
import { beforeText } from '../lab/spec.ts';
import { filesDisk, restingDisk } from './support/guests.ts';
import { imageInfo, requireSameContent } from './support/images.ts';

/** What a failed restore may have left: hidden files count. */
const filesOf = (directory: string) => readdir(directory, { recursive: true });

describe('restore', () => {
  const fixture = useHoldfast({ guest: { disks: [filesDisk, restingDisk(16)] } });
  let backupId: string;
  before(async () => {
    const { guest, holdfast } = fixture;
    const settings = { 'nas.backup.compression.enabled': 'true', 'nas.backup.quiesce': 'required' };
    const taken = await holdfast.client.takeBackup({ zone: 'z1', domain: guest.name, settings });
    backupId = succeeded(taken).backupId;
  });

  it('makes a domain that boots beside the original', async () => {
    const { lab, guest, holdfast } = fixture;
    const { client } = holdfast;
    const directory = await holdfast.restoreDirectory();
    const request = { backupId, host: 'host-1', directory, domainName: 'the second "one" & ö' };
    const { disks, domainXmlPath } = restoreResult(await client.restoreBackup(request));
    assert.deepEqual(
      disks.map(({ target, format }) => [target, format]),
      [
        ['vda', 'qcow2'],
        ['vdb', 'qcow2'],
      ],
    );
    assert.deepEqual(
      (await filesOf(directory)).toSorted(),
      [...disks.map((disk) => disk.path), domainXmlPath].map((file) => path.basename(file)).toSorted(),
    );
    await guest.destroy();
    const restored = await lab.define(await readFile(domainXmlPath, 'utf8'));
    assert.equal(restored.name, request.domainName);
    assert.notEqual(restored.uuid, guest.uuid);
    const xml = await restored.xml();
    for (const disk of disks) assert.ok(xml.includes(disk.path), disk.path);
    for (const disk of guest.disks) assert.ok(!xml.includes(disk.path ?? '?'), disk.path);
    await restored.start();
    await restored.waitReady();
    assert.equal(await restored.readFile('/data/before.txt'), beforeText);
    await restored.destroy();
  });

  it('makes one disk alone, in the format that is asked for', async () => {
    const { guest, holdfast } = fixture;
    const directory = await holdfast.restoreDirectory();
    const { disks, domainXmlPath } = restoreResult(
      await holdfast.client.restoreBackup({
        ...{ backupId, host: 'host-1', directory, disks: ['vdb'] },
        format: ImageFormat.IMAGE_FORMAT_RAW,
      }),
    );
    assert.equal(domainXmlPath, '');
    const [disk] = disks;
    assert.ok(disk && disks.length === 1);
    assert.deepEqual(await filesOf(directory), [path.basename(disk.path)]);
    assert.equal((await imageInfo(disk.path)).format, 'raw');
    await requireSameContent({ path: guest.disks[1]?.path, format: 'raw' }, disk);
  });

  it('overwrites nothing', async () => {
    const { holdfast } = fixture;
    const { client } = holdfast;
    const directory = await holdfast.restoreDirectory();
    const request = { backupId, host: 'host-1', directory };
    const { disks } = restoreResult(await client.restoreBackup({ ...request, disks: ['vdb'] }));
    const before = await readFile(disks[0]?.path ?? '');
    const names = await filesOf(directory);
    for (const again of [request, { ...request, disks: ['vdb'] }]) {
      assert.equal(failed(await client.restoreBackup(again)).reason, 'TARGET_EXISTS');
    }
    assert.deepEqual(await filesOf(directory), names);
    assert.ok(before.equals(await readFile(disks[0]?.path ?? '')));
    await assert.rejects(client.restoreBackup({ ...request, disks: ['vdz'] }), { reason: 'DISK_NOT_FOUND' });
  });
});

function restoreResult(followed: Followed): RestoreResult {
  const result = succeeded(followed).result?.result;
  assert.equal(result?.$case, 'restore');
  return result.value;
}
