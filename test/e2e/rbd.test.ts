import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { execa } from 'execa';
import { RestoreBackupRequest } from '@holdfast/proto/holdfast/v1/backup.ts';
import type { RestoreResult } from '@holdfast/proto/holdfast/v1/event.ts';
import { Stage } from '@holdfast/proto/holdfast/v1/event.ts';
import { useHoldfast } from '../harness/fixture.ts';
import { failed, succeeded, type Followed } from '../harness/follow.ts';
import type { Holdfast } from '../harness/holdfast.ts';
import { processesNaming } from '../harness/leftovers.ts';
import { startCeph, type Ceph } from '../lab/ceph.ts';
import { until } from '../lab/deadline.ts';
import { beforeText, MiB } from '../lab/spec.ts';
import { nothingLeft } from '../faults/support/nothingLeft.ts';
import { isStart } from './support/events.ts';
import { filesDisk, restingDisk, slowly } from './support/guests.ts';
import {
  cephxXml,
  defineCephSecret,
  imagesOf,
  importDisk,
  rbdDiskXml,
  replaceDisks,
  requireSameAsImage,
  snapshotsOf,
  usedBytes,
} from './support/rbd.ts';

/** librados keeps a client that was killed for half a minute, and a hang has to last as long to be one. */
const SLOW_MS = 300_000;

const SETTINGS = { 'nas.backup.compression.enabled': 'true', 'nas.backup.encryption.enabled': 'true' };

describe('volumes on RBD', function () {
  this.timeout(SLOW_MS);
  const fixture = useHoldfast({
    guest: {
      disks: [
        filesDisk,
        { target: 'vdb', format: 'raw', sizeBytes: 64 * MiB, content: { kind: 'random', everyMiB: 8 } },
      ],
      start: false,
    },
  });
  let ceph: Ceph;
  let secret: string;
  const vdb = (): string => `${ceph.pool}/two`;
  before(async () => {
    const { lab, guest, holdfast } = fixture;
    ceph = await startCeph();
    const caps = ['mon', 'profile rbd', 'osd', 'profile rbd'];
    secret = await defineCephSecret(lab, 'vm', (await ceph.makeUser('client.vm', caps)).key);
    await importDisk(ceph, guest.disks[0], `${ceph.pool}/one`);
    await importDisk(ceph, guest.disks[1], `${ceph.pool}/base`);
    await ceph.rbd(['snap', 'create', '--no-progress', `${ceph.pool}/base@s`]);
    await ceph.rbd(['snap', 'protect', `${ceph.pool}/base@s`]);
    await ceph.rbd(['clone', `${ceph.pool}/base@s`, vdb()]);
    await ceph.makePool('other');
    await define();
    await holdfast.client.setSettings('z1', { 'nas.backup.encryption.passphrase': 'for the backups' });
  });
  after(async () => {
    await ceph[Symbol.asyncDispose]();
  });

  const define = async (image = `${ceph.pool}/one`, access = cephxXml(ceph, 'vm', secret)): Promise<void> => {
    const disks = [rbdDiskXml('vda', image, access), rbdDiskXml('vdb', vdb(), access)];
    await replaceDisks(fixture.lab, fixture.guest, disks);
  };
  const request = (settings: Record<string, string> = {}) => ({
    zone: 'z1',
    domain: fixture.guest.name,
    settings,
  });
  const disksOf = async (backupId: string) => {
    const { manifest } = await fixture.holdfast.client.getBackup(backupId);
    return manifest?.disks ?? [];
  };
  const restoreFiles = async (backupId: string, disks: string[] = []): Promise<RestoreResult> => {
    const { client, restoreDirectory } = fixture.holdfast;
    const directory = await restoreDirectory();
    return restoreResult(await client.restoreBackup({ backupId, host: 'host-1', directory, disks }));
  };
  const noTrace = async (): Promise<void> => {
    for (const image of ['one', 'two'])
      assert.deepEqual(await snapshotsOf(ceph, `${ceph.pool}/${image}`), []);
    await nothingLeft(fixture.lab, fixture.holdfast);
  };

  let stoppedBackup: string;

  it('of a stopped domain are read from a snapshot, thin, at the limit, and whole without their parents', async () => {
    const { client } = fixture.holdfast;
    const snapshots: string[] = [];
    const settings = { ...SETTINGS, 'nas.backup.bandwidth.limit.mbps': '16' };
    const taken = await client.takeBackup(request(settings), async (event) => {
      if (isStart(event, Stage.STAGE_BLOCKJOB))
        snapshots.push(...(await snapshotsOf(ceph, `${ceph.pool}/one`)));
    });
    const { backupId } = succeeded(taken);
    stoppedBackup = backupId;
    assert.equal(snapshots.length, 1);
    await noTrace();
    const [one, two] = await disksOf(backupId);
    assert.deepEqual(
      [one, two].map((disk) => [disk?.sourceType, disk?.volumeId, disk?.source, disk?.sourceFormat]),
      ['one', 'two'].map((name) => ['network', `${ceph.pool}/${name}`, `${ceph.pool}/${name}`, 'raw']),
    );
    // Holes of the image are neither read nor counted; an object is 4 MiB.
    const used = await usedBytes(ceph, `${ceph.pool}/one`);
    assert.ok(used < 48 * MiB, `${used}`);
    assert.ok(Math.abs(Number(one?.dataBytes) - used) <= 4 * MiB, `${one?.dataBytes} of ${used}`);
    // The clone itself has no object of its own.
    assert.equal(await usedBytes(ceph, vdb()), 0);
    assert.ok(Number(two?.storedBytes) < 16 * MiB, `${two?.storedBytes}`);
    const { disks } = await restoreFiles(backupId);
    for (const [index, disk] of disks.entries())
      await requireSameAsImage(ceph, `${ceph.pool}/${index === 0 ? 'one' : 'two'}`, disk);
  });

  it('are restored to a pool, thin, by the same user, and the domain starts from it', async () => {
    const { lab, holdfast } = fixture;
    const { client } = holdfast;
    const wanted = {
      ...{ backupId: stoppedBackup, host: 'host-1', domainName: 'second' },
      directory: await holdfast.restoreDirectory(),
      rbd: { pool: 'other', namespace: '', monitors: [], user: '', secretUuid: '', confPath: '' },
    };
    const { disks, domainXmlPath } = restoreResult(await client.restoreBackup(wanted));
    assert.deepEqual(
      disks.map(({ target, path, format }) => [target, path, format]),
      ['vda', 'vdb'].map((target) => [target, `rbd:other/second-${target}`, 'raw']),
    );
    assert.deepEqual(await imagesOf(ceph, 'other'), ['second-vda', 'second-vdb']);
    assert.ok((await usedBytes(ceph, 'other/second-vdb')) <= 36 * MiB);
    const before = await usedBytes(ceph, 'other/second-vda');
    assert.ok(before <= (await usedBytes(ceph, `${ceph.pool}/one`)) + 4 * MiB, `${before}`);
    for (const [image, copy] of [
      ['one', 'second-vda'],
      ['two', 'second-vdb'],
    ] as const)
      await requireSameAsImage(ceph, `${ceph.pool}/${image}`, {
        path: `rbd:other/${copy}:conf=${ceph.confPath}`,
        format: 'raw',
      });

    assert.equal(failed(await client.restoreBackup(wanted)).reason, 'TARGET_EXISTS');
    const elsewhere = { ...wanted, directory: await holdfast.restoreDirectory() };
    assert.equal(failed(await client.restoreBackup(elsewhere)).reason, 'TARGET_EXISTS');
    assert.deepEqual(await imagesOf(ceph, 'other'), ['second-vda', 'second-vdb']);

    const restored = await lab.define(await readFile(domainXmlPath, 'utf8'));
    assert.match(await restored.xml(), new RegExp(`<secret type='ceph' uuid='${secret}'/>`));
    await restored.start();
    await restored.waitReady();
    assert.equal(await restored.readFile('/data/before.txt'), beforeText);
    await restored.destroy();
    await noTrace();
  });

  it('of a running domain are backed up as any others, and the disks can become files', async () => {
    const { guest, holdfast } = fixture;
    await guest.start();
    await guest.waitReady();
    const taken = succeeded(
      await holdfast.client.takeBackup(request({ ...SETTINGS, 'nas.backup.quiesce': 'required' })),
    );
    const [one, two] = await disksOf(taken.backupId);
    assert.deepEqual([one?.sourceType, two?.volumeId], ['network', vdb()]);
    assert.ok(Number(one?.dataBytes) < 48 * MiB, `${one?.dataBytes}`);
    await guest.destroy();
    const { disks, domainXmlPath } = await restoreFiles(taken.backupId);
    const [, second] = disks;
    assert.ok(second);
    await requireSameAsImage(ceph, vdb(), second);
    const xml = await readFile(domainXmlPath, 'utf8');
    assert.doesNotMatch(xml, /protocol=|type=.ceph|<auth/);
    await noTrace();
  });

  it('need no secret where a keyring on the host has the key, and disks in files can go to RBD', async () => {
    const { lab, holdfast } = fixture;
    const { client } = holdfast;
    await define(`${ceph.pool}/one`, `<config file='${ceph.confPath}'/>`);
    const byKeyring = succeeded(await client.takeBackup(request()));
    const { disks } = await restoreFiles(byKeyring.backupId, ['vdb']);
    assert.ok(disks[0]);
    await requireSameAsImage(ceph, vdb(), disks[0]);
    await define();

    const guest = await lab.guest({ disks: [restingDisk(8)], start: false, name: 'in-files' });
    const { backupId } = succeeded(await client.takeBackup({ zone: 'z1', domain: guest.name }));
    const place = { backupId, host: 'host-1', directory: '', disks: ['vdb'] };
    const nowhere = { pool: 'other', namespace: '', monitors: [], user: '', secretUuid: '', confPath: '' };
    assert.equal(failed(await client.restoreBackup({ ...place, rbd: nowhere })).reason, 'INVALID_REQUEST');
    const rbd = { ...nowhere, monitors: [ceph.monitors], user: 'vm', secretUuid: secret };
    restoreResult(await client.restoreBackup({ ...place, rbd, domainName: 'by-secret' }));
    const byConf = ['--rbd-conf', ceph.confPath, '--name', 'by-keyring', '--disk', 'vdb'];
    const bySecret = ['--rbd-monitor', ceph.monitors, '--rbd-user', 'vm', '--rbd-secret', secret];
    const toPool = ['restore', backupId, '--host', 'host-1', '--rbd-pool', 'other'];
    await holdfastCommand(holdfast, [...toPool, ...byConf]);
    const withXml = ['--directory', await holdfast.restoreDirectory(), '--name', 'by-command'];
    await holdfastCommand(holdfast, [...toPool, ...bySecret, ...withXml]);
    const file = { path: guest.disks[0]?.path ?? '', format: 'raw' };
    for (const name of ['by-secret', 'by-keyring', 'by-command']) {
      await requireSameAsImage(ceph, `other/${name}-vdb`, file);
    }
    await noTrace();
  });

  it('that are not there, or not ours to read, are refused before anything is made', async () => {
    const { lab, holdfast } = fixture;
    const { client } = holdfast;
    const wrong = await defineCephSecret(lab, 'vm', 'AQBQ4QVrTEtuCRAAUDZXK5c0Sm8B5e7fiNGqiw==');
    const nobody = '00000000-0000-4000-8000-000000000000';
    for (const [image, access, reason, message] of [
      [`${ceph.pool}/nothing`, cephxXml(ceph, 'vm', secret), 'VOLUME_NOT_FOUND', /vms\/nothing/],
      ['nopool/one', cephxXml(ceph, 'vm', secret), 'VOLUME_NOT_FOUND', /nopool/],
      [`${ceph.pool}/one`, cephxXml(ceph, 'vm', nobody), 'VOLUME_REFUSED', /secret 00000000.*client\.vm/],
      [`${ceph.pool}/one`, cephxXml(ceph, 'vm', wrong), 'VOLUME_REFUSED', /client\.vm/],
      [`${ceph.pool}/one`, "<config file='/nowhere/ceph.conf'/>", 'VOLUME_REFUSED', /nowhere/],
    ] as const) {
      await define(image, access);
      const error = failed(await client.takeBackup(request()));
      assert.deepEqual([error.reason, message.test(error.message)], [reason, true], error.message);
      await noTrace();
    }
    await define();
    const place = { backupId: stoppedBackup, host: 'host-1', directory: '', disks: ['vdb'] };
    const nopool = { pool: 'nopool', namespace: '', monitors: [], user: '', secretUuid: '', confPath: '' };
    assert.equal(failed(await client.restoreBackup({ ...place, rbd: nopool })).reason, 'VOLUME_NOT_FOUND');
    const slash = { ...nopool, pool: 'a/b' };
    assert.equal(failed(await client.restoreBackup({ ...place, rbd: slash })).reason, 'INVALID_REQUEST');
  });

  it('keep no snapshot and no half image when a job is killed or cancelled', async () => {
    const { client } = fixture.holdfast;
    const { id } = await client.startBackup(request(slowly));
    const killed = await client.follow(id, async (event) => {
      if (!isStart(event, Stage.STAGE_BLOCKJOB)) return;
      assert.equal((await snapshotsOf(ceph, `${ceph.pool}/one`)).length, 1);
      const runners = (await processesNaming(id)).filter(({ argv }) => argv.join(' ').includes('runner.ts'));
      assert.ok(runners.length > 0);
      for (const { pid } of runners) process.kill(pid, 'SIGKILL');
    });
    assert.equal(failed(killed).reason, 'RUNNER_DIED');
    await until('The snapshot is removed', 90_000, async () =>
      (await snapshotsOf(ceph, `${ceph.pool}/one`)).length === 0 ? true : undefined,
    );
    await noTrace();

    const before = await imagesOf(ceph, 'other');
    let during: string[] = [];
    const restore = {
      ...{ backupId: stoppedBackup, host: 'host-1', directory: '', disks: ['vda'], domainName: 'third' },
      bandwidthLimitMibps: 1n,
      rbd: { pool: 'other', namespace: '', monitors: [], user: '', secretUuid: '', confPath: '' },
    };
    const { backups } = client;
    const full = RestoreBackupRequest.fromPartial(restore);
    const { operation } = await client.call(backups.restoreBackup.bind(backups), full);
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

  it('whose cluster hangs in the middle end the job with that reason, and are cleaned up when it is back', async () => {
    const { holdfast } = fixture;
    const { client } = holdfast;
    const hung = await client.takeBackup(request(slowly), (event) => {
      if (isStart(event, Stage.STAGE_BLOCKJOB)) ceph.pause();
      return undefined;
    });
    assert.equal(failed(hung).reason, 'VOLUME_STALLED');
    ceph.resume();
    // What could not be undone while the cluster was away is undone when the agent starts.
    await holdfast.agent.kill('SIGKILL');
    await holdfast.agent.start();
    await until('The snapshot is removed', 90_000, async () =>
      (await snapshotsOf(ceph, `${ceph.pool}/one`)).length === 0 ? true : undefined,
    );
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
