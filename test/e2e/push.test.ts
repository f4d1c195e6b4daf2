import assert from 'node:assert/strict';
import { mkdir } from 'node:fs/promises';
import path from 'node:path';
import { execa } from 'execa';
import { Stage } from '@holdfast/proto/holdfast/v1/event.ts';
import { ListOperationsRequest, type UpdateOperationRequest } from '@holdfast/proto/holdfast/v1/operation.ts';
import { nothingLeft } from '../faults/support/nothingLeft.ts';
import { useHoldfast } from '../harness/fixture.ts';
import { succeeded } from '../harness/follow.ts';
import { until } from '../lab/deadline.ts';
import { MiB, type DiskSpec } from '../lab/spec.ts';
import { isStart } from './support/events.ts';
import { PASSPHRASE } from './support/features.ts';
import { filesDisk } from './support/guests.ts';
import { compressedClusters, imageInfo, requireSameContent } from './support/images.ts';
import { controllerEnvironment, pageOf, type Page } from './support/page.ts';

const push = { 'nas.backup.transport': 'push' };
const encrypted = {
  'nas.backup.encryption.enabled': 'true',
  'nas.backup.encryption.passphrase': PASSPHRASE,
};
const compressed = { 'nas.backup.compression.enabled': 'true' };

/** Larger than what is under way before a limit takes hold, and of an end within a cluster. */
const SIZE = 256 * MiB + 1536;
const DATA = 32 * MiB + 1536;
const thin = (target: string): DiskSpec => ({
  target,
  format: 'raw',
  sizeBytes: SIZE,
  content: { kind: 'random', everyMiB: 8, seed: target },
});

describe('a pushed backup', () => {
  const fixture = useHoldfast({
    lab: { qemuUser: 'libvirt-qemu', mounts: 'shared' },
    guest: { disks: [filesDisk, thin('vdb'), thin('vdc')], writerMiBPerSecond: 1 },
  });
  let page: Page;
  before(async () => {
    page = await pageOf('docs/transport.md');
  });
  afterEach(() => nothingLeft(fixture.lab, fixture.holdfast));

  async function requireRestorable(backupId: string): Promise<void> {
    const { guest, holdfast } = fixture;
    const { client, agent, restoreDirectory } = holdfast;
    const request = { backupId, host: agent.hostName, directory: await restoreDirectory() };
    const result = succeeded(await client.restoreBackup(request)).result?.result;
    assert.equal(result?.$case, 'restore');
    for (const target of ['vdb', 'vdc']) {
      const copy = result.value.disks.find((disk) => disk.target === target);
      const source = guest.disks.find((disk) => disk.target === target);
      assert.ok(copy && source);
      await requireSameContent(source, copy);
    }
  }

  for (const [how, settings] of [
    ['plain', {}],
    ['compressed', compressed],
    ['encrypted', encrypted],
    ['compressed and encrypted', { ...compressed, ...encrypted }],
  ] as const) {
    it(`is the same when restored, and as thin: ${how}`, async () => {
      const { guest, holdfast } = fixture;
      const all = { ...push, ...settings, 'nas.backup.integrity.check': 'true' };
      const { backupId } = succeeded(
        await holdfast.client.takeBackup({ zone: 'z1', domain: guest.name, settings: all }),
      );
      const backup = await holdfast.client.getBackup(backupId);
      const { manifest } = backup;
      assert.equal(manifest?.transport, 'push');
      assert.equal(manifest.checked, true);
      for (const disk of manifest.disks.filter(({ target }) => target !== 'vda')) {
        assert.equal(disk.virtualSizeBytes, BigInt(SIZE));
        assert.equal(disk.dataBytes, BigInt(DATA));
        assert.ok(disk.storedBytes < DATA + 4 * MiB, `${disk.storedBytes} stored`);
      }
      const busy = manifest.disks.find(({ target }) => target === 'vda');
      const file = path.join(holdfast.repository(), backup.path, busy?.file ?? '');
      assert.equal((await imageInfo(file)).encrypted ?? false, 'nas.backup.encryption.enabled' in settings);
      if (!('nas.backup.encryption.enabled' in settings)) {
        const some = (await compressedClusters(file)) > 0;
        assert.equal(some, 'nas.backup.compression.enabled' in settings);
      }
      await requireRestorable(backupId);
    });
  }

  it('keeps one limit for all its disks, which libvirt shows, changed and paused while it runs', async () => {
    const { lab, guest, holdfast } = fixture;
    const { client } = holdfast;
    const { operations } = client;
    const settings = { ...push, 'nas.backup.bandwidth.limit.mbps': '4' };
    const { id } = await client.startBackup({ zone: 'z1', domain: guest.name, settings });
    const update = (change: NonNullable<UpdateOperationRequest['change']>): Promise<unknown> =>
      client.call(operations.updateOperation.bind(operations), { operationId: id, change });
    const limitOf = async (target: string): Promise<number> => {
      const said = await lab.virsh(['blockjob', guest.uuid, target, '--info', '--raw', '--bytes']);
      return Number(/bandwidth=(\d+)/.exec(said)?.[1]);
    };
    const shown = (bytesPerSecond: number): Promise<unknown> =>
      until(`Both disks are limited to ${bytesPerSecond} bytes a second`, 20_000, async () => {
        const limits = await Promise.all([limitOf('vdb'), limitOf('vdc')]);
        return limits.every((limit) => limit === bytesPerSecond) ? true : undefined;
      });
    const followed = await client.follow(id, async (event) => {
      if (!isStart(event, Stage.STAGE_BLOCKJOB)) return;
      // The smallest disk is through before any limit takes hold; then its part is the others'.
      await shown(2 * MiB);
      const looked = await page.command(
        /^virsh blockjob/m,
        { 'web vda': `${guest.uuid} vdb` },
        { LIBVIRT_DEFAULT_URI: lab.libvirtUri },
      );
      assert.match(looked.stdout, /Bandwidth limit: 2097152 bytes/, looked.stderr);
      await update({ $case: 'bandwidthLimitMibps', value: 6n });
      await shown(3 * MiB);
      await update({ $case: 'paused', value: true });
      await shown(1);
      await update({ $case: 'paused', value: false });
      await shown(3 * MiB);
      await update({ $case: 'bandwidthLimitMibps', value: 0n });
    });
    const operation = succeeded(followed);
    assert.deepEqual(
      operation.warnings.map(({ reason }) => reason),
      ['PAUSED_BY_LIMIT'],
    );
    await requireRestorable(operation.backupId);
  });

  it('is asked for as the page says', async () => {
    const { guest, holdfast } = fixture;
    const { client } = holdfast;
    const { operations, zones } = client;
    const words = { web: guest.name, home: 'z1' };
    const typed = await page.command(/--transport push/, words, controllerEnvironment(holdfast));
    assert.equal(typed.exitCode, 0, `${typed.stdout}${typed.stderr}`);
    const { settings } = await client.call(zones.getSettings.bind(zones), { zone: 'z1' });
    await client.setSettings('z1', {}, Object.keys(push));
    assert.equal(settings.find(({ key }) => key in push)?.value, 'push');
    const newest = ListOperationsRequest.fromPartial({ zone: 'z1', pageSize: 1 });
    const listed = await client.call(operations.listOperations.bind(operations), newest);
    const { manifest } = await client.getBackup(listed.operations[0]?.backupId ?? '');
    assert.equal(manifest?.transport, 'push');
  });

  it('is what auto takes when there is too little scratch space, and says so', async () => {
    const { guest, holdfast } = fixture;
    const { scratchDirectory } = holdfast.agent;
    await mkdir(scratchDirectory, { recursive: true });
    await using mounts = new AsyncDisposableStack();
    await execa('mount', ['-t', 'tmpfs', '-o', 'size=8M', 'tmpfs', scratchDirectory]);
    mounts.defer(async () => {
      await execa('umount', ['--lazy', scratchDirectory]);
    });
    await execa('fallocate', ['-l', '7900K', path.join(scratchDirectory, 'other')]);
    const { client } = holdfast;
    const operation = succeeded(await client.takeBackup({ zone: 'z1', domain: guest.name }));
    assert.deepEqual(
      operation.warnings.map(({ reason }) => reason),
      ['PUSH_CHOSEN'],
    );
    const { manifest } = await client.getBackup(operation.backupId);
    assert.equal(manifest?.transport, 'push');
    assert.match(manifest.transportReason, /too little scratch space/);
  });

  it('is not what auto takes when there is enough', async () => {
    const { guest, holdfast } = fixture;
    const { client } = holdfast;
    const operation = succeeded(await client.takeBackup({ zone: 'z1', domain: guest.name }));
    assert.deepEqual(operation.warnings, []);
    const { manifest } = await client.getBackup(operation.backupId);
    assert.equal(manifest?.transport, 'pull');
    assert.match(manifest.transportReason, /enough scratch space/);
  });
});
