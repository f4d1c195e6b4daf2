import assert from 'node:assert/strict';
import path from 'node:path';
import { ImageFormat, type Backup } from '@holdfast/proto/holdfast/v1/backup.ts';
import { Stage } from '@holdfast/proto/holdfast/v1/event.ts';
import { succeeded } from '../../harness/follow.ts';
import { useHoldfast } from '../../harness/fixture.ts';
import type { Holdfast } from '../../harness/holdfast.ts';
import type { Guest } from '../../lab/guest.ts';
import { beforeText, MiB, type GuestDisk } from '../../lab/spec.ts';
import { isFinish } from './events.ts';
import { PASSPHRASE, settingsOf, titleOf, type Features } from './features.ts';
import { fileIn, requireClean, requireCleanAfterReplay } from './fileSystem.ts';
import { compressedClusters, imageInfo, requireSameContent } from './images.ts';
import { watchingFor } from './marker.ts';

const MARKER = 'HOLDFAST-E2E-MARKER-not-to-be-found';

/** A busy disk with a file system and a resting one with a marker; one guest for all rows. */
export function describeCombinations(name: string, rows: readonly Features[]): void {
  describe(name, () => {
    const fixture = useHoldfast({
      guest: {
        disks: [
          { target: 'vda', sizeBytes: 96 * MiB, content: { kind: 'files', fileBytes: 24 * MiB } },
          {
            target: 'vdb',
            format: 'raw',
            sizeBytes: 64 * MiB,
            content: { kind: 'random', everyMiB: 2, marker: MARKER },
          },
        ],
        writerMiBPerSecond: 1,
      },
    });
    let count = 0;
    before(() =>
      fixture.holdfast.client.setSettings('z1', { 'nas.backup.encryption.passphrase': PASSPHRASE }),
    );

    for (const features of rows) {
      it(titleOf(features), async () => {
        const { guest, holdfast } = fixture;
        if (features.state === 'shut off' && (await guest.state()) !== 'shut off') await guest.shutdown();
        const during = `/during-${++count}.txt`;
        const backup = await takeBackup(holdfast, guest, features, during);
        try {
          await requireAsAsked(holdfast, backup, features);
          succeeded(await holdfast.client.verifyBackup({ backupId: backup.id }));
          await requireRestorable(holdfast, guest, backup, during);
        } finally {
          // The next row looks at all that is on the repository.
          succeeded(await holdfast.client.deleteBackup(backup.id));
        }
      });
    }
  });
}

async function takeBackup(
  { client, repository }: Holdfast,
  guest: Guest,
  features: Features,
  during: string,
): Promise<Backup> {
  const settings = settingsOf(features);
  let written: Promise<void> | undefined;
  const following = client.takeBackup({ zone: 'z1', domain: guest.name, settings }, (event) => {
    if (features.state !== 'running' || !isFinish(event, Stage.STAGE_QUIESCE)) return undefined;
    // Not waited for here: it shall happen while the disks are copied.
    written = guest.writeFile(`/data${during}`, 'Written while the backup ran.\n');
    written.catch(() => undefined);
    return undefined;
  });
  const { result, found, looks } = await watchingFor(repository(), MARKER, following);
  const operation = succeeded(result);
  await written;
  assert.equal(written !== undefined, features.state === 'running');
  assert.ok(looks > 0);
  if (features.encryption) assert.deepEqual(found, []);
  else if (features.compression === 'off') assert.ok(found.length > 0, 'the marker can be found at all');
  return client.getBackup(operation.backupId);
}

/** The files on the repository are built as the settings say, and the manifest says the same. */
async function requireAsAsked({ repository }: Holdfast, backup: Backup, features: Features): Promise<void> {
  const manifest = backup.manifest;
  assert.ok(manifest);
  const compression = features.compression === 'off' ? '' : features.compression;
  assert.equal(backup.compressed, compression !== '');
  assert.equal(backup.encrypted, features.encryption);
  assert.equal(manifest.checked, features.check);
  assert.equal(manifest.consistency?.requested, features.quiesce);
  assert.equal(backup.quiesced, features.state === 'shut off' || features.quiesce !== 'off');
  const stages = manifest.stages.map(({ stage }) => stage);
  assert.equal(stages.includes('encrypt'), features.encryption);
  assert.equal(stages.includes('check'), features.check);
  assert.deepEqual(
    manifest.disks.map(({ target }) => target),
    ['vda', 'vdb'],
  );

  const layout = compression !== '' && features.encryption ? 'luks+qcow2' : 'qcow2';
  for (const disk of manifest.disks) {
    const file = path.join(repository(), backup.path, disk.file);
    const info = await imageInfo(file);
    assert.equal(disk.layout, layout);
    assert.equal(disk.compression, compression);
    assert.equal(info.encrypted ?? false, features.encryption);
    assert.equal(info.format, layout === 'qcow2' ? 'qcow2' : 'luks');
    if (layout !== 'qcow2') continue;
    const data = info['format-specific']?.data;
    assert.equal(data?.encrypt?.format, features.encryption ? 'luks' : undefined);
    // A qcow2 without compression is of type zlib too.
    // The other disk is random: a cluster that does not get smaller is stored as it is.
    if (!features.encryption && disk.target === 'vda')
      assert.equal((await compressedClusters(file)) > 0, compression !== '');
    if (compression !== '') assert.equal(data?.['compression-type'], compression);
  }
}

async function requireRestorable(
  { client, agent, restoreDirectory }: Holdfast,
  guest: Guest,
  backup: Backup,
  during: string,
): Promise<void> {
  for (const [format, word] of [
    [ImageFormat.IMAGE_FORMAT_QCOW2, 'qcow2'],
    [ImageFormat.IMAGE_FORMAT_RAW, 'raw'],
  ] as const) {
    const directory = await restoreDirectory();
    const request = { backupId: backup.id, host: agent.hostName, directory, format };
    const { result } = succeeded(await client.restoreBackup(request)).result ?? {};
    assert.equal(result?.$case, 'restore');
    const disks = new Map(result.value.disks.map((disk) => [disk.target, disk]));
    for (const disk of disks.values()) assert.equal((await imageInfo(disk.path)).format, word);

    const resting = disks.get('vdb');
    assert.ok(resting);
    await requireSameContent(diskOf(guest, 'vdb'), resting);
    const busy = disks.get('vda');
    assert.ok(busy);
    if (word === 'raw') await requireFileSystem(busy.path, backup.quiesced, during);
    // Nothing writes to a domain that is off: then this disk is the same to the byte too.
    if (backup.manifest?.domainRunning === false) await requireSameContent(diskOf(guest, 'vda'), busy);
  }
}

async function requireFileSystem(image: string, quiesced: boolean, during: string): Promise<void> {
  await (quiesced ? requireClean(image) : requireCleanAfterReplay(image));
  assert.equal(await fileIn(image, '/before.txt'), beforeText);
  assert.equal(await fileIn(image, during), undefined);
}

function diskOf(guest: Guest, target: string): GuestDisk {
  const disk = guest.disks.find((each) => each.target === target);
  assert.ok(disk);
  return disk;
}
