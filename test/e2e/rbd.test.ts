import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { execa } from 'execa';
import { RestoreBackupRequest } from '@holdfast/proto/holdfast/v1/backup.ts';
import type { RestoreResult } from '@holdfast/proto/holdfast/v1/event.ts';
import { Stage } from '@holdfast/proto/holdfast/v1/event.ts';
import { failed, succeeded, type Followed } from '../harness/follow.ts';
import type { Holdfast } from '../harness/holdfast.ts';
import { processesNaming } from '../harness/leftovers.ts';
import { beforeText, MiB } from '../lab/spec.ts';
import { isStart } from './support/events.ts';
import { restingDisk } from './support/guests.ts';
import { cephxXml, imagesOf, requireSameAsImage, usedBytes } from './support/rbd.ts';
import { SAME_CLUSTER, SLOWLY, useRbdVolumes } from './support/rbdVolumes.ts';

const SETTINGS = { 'nas.backup.compression.enabled': 'true', 'nas.backup.encryption.enabled': 'true' };

describe('volumes on RBD', function () {
  const fixture = useRbdVolumes();
  const { define, noTrace, request, snapshots } = fixture;
  const disksOf = async (backupId: string) => {
    const { manifest } = await fixture.holdfast.client.getBackup(backupId);
    return manifest?.disks ?? [];
  };
  const restoreFiles = async (backupId: string, disks: string[] = []): Promise<RestoreResult> => {
    const { client, restoreDirectory } = fixture.holdfast;
    const directory = await restoreDirectory();
    return restoreResult(await client.restoreBackup({ backupId, host: 'host-1', directory, disks }));
  };
  let stoppedBackup: string;

  it('of a stopped domain are read from a snapshot, thin, at the limit, and whole without their parents', async () => {
    const { ceph, one, two } = fixture;
    const { client } = fixture.holdfast;
    let during: string[] = [];
    const settings = { ...SETTINGS, 'nas.backup.bandwidth.limit.mbps': '8' };
    const taken = await client.takeBackup(request(settings), async (event) => {
      if (isStart(event, Stage.STAGE_BLOCKJOB)) during = await snapshots();
    });
    const { backupId } = succeeded(taken);
    stoppedBackup = backupId;
    assert.equal(during.length, 2);
    await noTrace();
    const [first, second] = await disksOf(backupId);
    assert.deepEqual(
      [first, second].map((disk) => [disk?.sourceType, disk?.volumeId, disk?.source, disk?.sourceFormat]),
      [one, two].map((name) => ['network', name, name, 'raw']),
    );
    // Holes of the image are neither read nor counted; an object is 4 MiB.
    const used = await usedBytes(ceph, one);
    assert.ok(used < 48 * MiB, `${used}`);
    assert.ok(Math.abs(Number(first?.dataBytes) - used) <= 4 * MiB, `${first?.dataBytes} of ${used}`);
    // The clone itself has no object of its own.
    assert.equal(await usedBytes(ceph, two), 0);
    assert.ok(Number(second?.storedBytes) < 8 * MiB, `${second?.storedBytes}`);
    const { manifest } = await client.getBackup(backupId);
    const pass = manifest?.stages.find(({ stage }) => stage === 'blockjob');
    const rate = (Number(pass?.inputBytes) / Number(pass?.elapsedMs)) * (1_000 / MiB);
    assert.ok(rate > 2 && rate < 8.8, `${rate} MiB/s`);
    const { disks, domainXmlPath } = await restoreFiles(backupId);
    for (const [index, disk] of disks.entries())
      await requireSameAsImage(ceph, index === 0 ? one : two, disk);
    assert.doesNotMatch(await readFile(domainXmlPath, 'utf8'), /protocol=|type=.ceph|<auth/);
  });

  it('are restored to another pool, thin, by the same user; the domain that starts from it is pulled and pushed', async () => {
    const { ceph, holdfast, lab, one, secret, two } = fixture;
    const { client } = holdfast;
    const wanted = {
      ...{ backupId: stoppedBackup, host: 'host-1', domainName: 'second' },
      directory: await holdfast.restoreDirectory(),
      rbd: { ...SAME_CLUSTER, pool: 'other' },
    };
    const { disks, domainXmlPath } = restoreResult(await client.restoreBackup(wanted));
    assert.deepEqual(
      disks.map(({ target, path, format }) => [target, path, format]),
      ['vda', 'vdb'].map((target) => [target, `rbd:other/second-${target}`, 'raw']),
    );
    assert.deepEqual(await imagesOf(ceph, 'other'), ['second-vda', 'second-vdb']);
    assert.ok((await usedBytes(ceph, 'other/second-vdb')) <= 16 * MiB);
    assert.ok((await usedBytes(ceph, 'other/second-vda')) <= (await usedBytes(ceph, one)) + 4 * MiB);
    const inOther = (image: string) => ({ path: `rbd:other/${image}:conf=${ceph.confPath}`, format: 'raw' });
    await requireSameAsImage(ceph, one, inOther('second-vda'));
    await requireSameAsImage(ceph, two, inOther('second-vdb'));

    const elsewhere = { ...wanted, directory: await holdfast.restoreDirectory() };
    for (const again of [wanted, elsewhere])
      assert.equal(failed(await client.restoreBackup(again)).reason, 'TARGET_EXISTS');
    assert.deepEqual(await imagesOf(ceph, 'other'), ['second-vda', 'second-vdb']);

    const restored = await lab.define(await readFile(domainXmlPath, 'utf8'));
    assert.match(await restored.xml(), new RegExp(`<secret type='ceph' uuid='${secret}'/>`));
    await restored.start();
    await restored.waitReady();
    assert.equal(await restored.readFile('/data/before.txt'), beforeText);
    for (const transport of ['pull', 'push']) {
      const settings = { ...SETTINGS, 'nas.backup.transport': transport, 'nas.backup.quiesce': 'required' };
      const taken = await client.takeBackup({ zone: 'z1', domain: 'second', settings });
      const { backupId } = succeeded(taken);
      const { manifest } = await client.getBackup(backupId);
      assert.equal(manifest?.transport, transport);
      const [first, second] = manifest.disks;
      assert.deepEqual([first?.sourceType, second?.volumeId], ['network', 'other/second-vdb']);
      assert.ok(Number(first?.storedBytes) < 48 * MiB, `${first?.storedBytes}`);
      const [vdb] = (await restoreFiles(backupId, ['vdb'])).disks;
      assert.ok(vdb);
      await requireSameAsImage(ceph, two, vdb);
    }
    await noTrace();
  });

  it('need no secret where a keyring on the host has the key, and disks in files can go to RBD', async () => {
    const { ceph, holdfast, lab, one } = fixture;
    const { client } = holdfast;
    await define(one, `<config file='${ceph.confPath}'/>`);
    succeeded(await client.takeBackup(request()));
    await define();

    const guest = await lab.guest({ disks: [restingDisk(8)], start: false, name: 'in-files' });
    const { backupId } = succeeded(await client.takeBackup({ zone: 'z1', domain: guest.name }));
    const nowhere = { backupId, host: 'host-1', directory: '', disks: ['vdb'] };
    const rbd = { ...SAME_CLUSTER, pool: 'other' };
    const refused = failed(await client.restoreBackup({ ...nowhere, rbd }));
    assert.deepEqual([refused.reason, /no RBD disk/.test(refused.message)], ['INVALID_REQUEST', true]);
    const toPool = ['restore', backupId, '--host', 'host-1', '--rbd-pool', 'other'];
    const byConf = ['--rbd-conf', ceph.confPath, '--name', 'by-keyring'];
    await holdfastCommand(holdfast, [...toPool, ...byConf, '--directory', await holdfast.restoreDirectory()]);
    const file = { path: guest.disks[0]?.path ?? '', format: 'raw' };
    await requireSameAsImage(ceph, 'other/by-keyring-vdb', file);
    await noTrace();
  });

  it('that are not there, or not ours to read, are refused before anything is made', async () => {
    const { ceph, holdfast, one, secret } = fixture;
    const { client } = holdfast;
    const nobody = '00000000-0000-4000-8000-000000000000';
    for (const [image, access, reason, message] of [
      [`${ceph.pool}/nothing`, cephxXml(ceph, 'vm', secret), 'VOLUME_NOT_FOUND', /vms\/nothing/],
      ['nopool/one', cephxXml(ceph, 'vm', secret), 'VOLUME_NOT_FOUND', /nopool/],
      [one, cephxXml(ceph, 'vm', nobody), 'VOLUME_REFUSED', /secret 00000000.*client\.vm/],
      [one, "<config file='/nowhere/ceph.conf'/>", 'VOLUME_REFUSED', /nowhere/],
    ] as const) {
      await define(image, access);
      const error = failed(await client.takeBackup(request()));
      assert.deepEqual([error.reason, message.test(error.message)], [reason, true], error.message);
    }
    await define();
    const place = { backupId: stoppedBackup, host: 'host-1', directory: '', disks: ['vdb'] };
    const nopool = { ...SAME_CLUSTER, pool: 'nopool' };
    assert.equal(failed(await client.restoreBackup({ ...place, rbd: nopool })).reason, 'VOLUME_NOT_FOUND');
    await noTrace();
  });

  it('keep no snapshot and no half image when a job is killed or cancelled', async () => {
    const { ceph } = fixture;
    const { client } = fixture.holdfast;
    const { id } = await client.startBackup(request(SLOWLY));
    const killed = await client.follow(id, async (event) => {
      if (!isStart(event, Stage.STAGE_BLOCKJOB)) return;
      assert.equal((await snapshots()).length, 2);
      const runners = (await processesNaming(id)).filter(({ argv }) => argv.join(' ').includes('runner.ts'));
      assert.ok(runners.length > 0);
      for (const { pid } of runners) process.kill(pid, 'SIGKILL');
    });
    assert.equal(failed(killed).reason, 'RUNNER_DIED');
    await noTrace();

    const before = await imagesOf(ceph, 'other');
    let during: string[] = [];
    const restore = RestoreBackupRequest.fromPartial({
      ...{ backupId: stoppedBackup, host: 'host-1', disks: ['vda'], domainName: 'third' },
      ...{ bandwidthLimitMibps: 1n, rbd: { ...SAME_CLUSTER, pool: 'other' } },
    });
    const { backups } = client;
    const { operation } = await client.call(backups.restoreBackup.bind(backups), restore);
    const operationId = operation?.id ?? '';
    const cancelled = await client.follow(operationId, async (event) => {
      if (!isStart(event, Stage.STAGE_CONVERT)) return;
      during = await imagesOf(ceph, 'other');
      const { operations } = client;
      await client.call(operations.cancelOperation.bind(operations), { operationId });
    });
    assert.equal(failed(cancelled).reason, 'CANCELLED');
    assert.equal(during.length, before.length + 1);
    assert.deepEqual(await imagesOf(ceph, 'other'), before);
    await noTrace();
  });
});

async function holdfastCommand(holdfast: Holdfast, args: readonly string[]): Promise<void> {
  const program = path.resolve(import.meta.dirname, '../../cli/bin/holdfast');
  const { address } = holdfast.controller;
  const controller = address.kind === 'unix' ? `unix:${address.path}` : '';
  await execa(program, ['--controller', controller, ...args], { timeout: 120_000 });
}

function restoreResult(followed: Followed): RestoreResult {
  const result = succeeded(followed).result?.result;
  assert.equal(result?.$case, 'restore');
  return result.value;
}
