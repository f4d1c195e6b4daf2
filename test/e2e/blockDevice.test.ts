import assert from 'node:assert/strict';
import { lstat, mkdir, open, rm, rmdir, symlink } from 'node:fs/promises';
import path from 'node:path';
import { execa } from 'execa';
import { useHoldfast } from '../harness/fixture.ts';
import { succeeded } from '../harness/follow.ts';
import { MiB } from '../lab/spec.ts';
import { nothingLeft } from '../faults/support/nothingLeft.ts';
import { filesDisk } from './support/guests.ts';
import { requireSameContent } from './support/images.ts';

/** Where udev puts DRBD's links; a resource is a directory with a link for each of its volumes. */
const BY_RESOURCE = '/dev/drbd/by-res';

describe('volumes that are block devices', () => {
  const fixture = useHoldfast({ guest: { disks: [filesDisk], start: false } });
  const stack = new AsyncDisposableStack();
  const resource = `cs-holdfast-test-${process.pid}`;
  /** By target name. */
  const images = new Map<string, string>();
  let device: string;
  let drbd: string;

  /** A disk image, and a loop device on it. */
  async function loopDevice(target: string): Promise<string> {
    const content = { kind: 'random', everyMiB: 4, seed: target } as const;
    const { path: image = '' } = await fixture.lab.disk({
      target,
      format: 'raw',
      sizeBytes: 16 * MiB,
      content,
    });
    images.set(target, image);
    const { stdout: loop } = await execa('losetup', ['--find', '--show', image]);
    const handle = stack.use(await open(loop));
    // Detached by the kernel when nobody has it open any more, so that a killed test leaves none behind.
    await execa('losetup', ['--detach', loop]);
    assert.ok((await handle.stat()).isBlockDevice());
    return loop;
  }

  before(async () => {
    const { lab, guest } = fixture;
    device = await loopDevice('vdb');
    // DRBD's kernel module is not needed for what its paths say.
    const directory = path.join(BY_RESOURCE, resource);
    await mkdir(directory, { recursive: true });
    stack.defer(async () => {
      await rm(directory, { recursive: true });
      // Only when they are empty: a host with DRBD has more of them.
      for (const parent of [BY_RESOURCE, path.dirname(BY_RESOURCE)])
        await rmdir(parent).catch(() => undefined);
    });
    drbd = path.join(directory, '0');
    await symlink(await loopDevice('vdc'), drbd);
    const disks = Object.entries({ vdb: device, vdc: drbd }).map(
      ([target, source]) =>
        `<disk type='block' device='disk'><driver name='qemu' type='raw'/><source dev='${source}'/>
         <target dev='${target}' bus='virtio'/></disk>`,
    );
    const xml = await guest.xml(['--inactive']);
    await lab.define(xml.replace('</devices>', `${disks.join('')}</devices>`));
  });
  after(() => stack.disposeAsync());

  for (const state of ['shut off', 'running']) {
    it(`are read by their paths, and named as their storage names them: ${state}`, async () => {
      const { lab, guest, holdfast } = fixture;
      const { client } = holdfast;
      if (state === 'running') {
        await guest.start();
        await guest.waitReady();
      }
      const settings = { 'nas.backup.compression.enabled': 'true' };
      const { backupId } = succeeded(await client.takeBackup({ zone: 'z1', domain: guest.name, settings }));
      const { manifest } = await client.getBackup(backupId);
      assert.deepEqual(
        manifest?.disks.map((disk) => [disk.target, disk.sourceType, disk.source, disk.volumeId]).slice(1),
        [
          ['vdb', 'block', device, ''],
          ['vdc', 'block', drbd, resource],
        ],
      );
      const directory = await holdfast.restoreDirectory();
      const wanted = { backupId, host: 'host-1', directory, disks: ['vdb', 'vdc'] };
      const result = succeeded(await client.restoreBackup(wanted)).result?.result;
      assert.equal(result?.$case, 'restore');
      assert.equal(result.value.disks.length, 2);
      for (const disk of result.value.disks)
        await requireSameContent({ path: images.get(disk.target) ?? '', format: 'raw' }, disk);
      assert.ok((await lstat(device)).isBlockDevice());
      await nothingLeft(lab, holdfast);
    });
  }
});
