/** The test plan of CloudStack's NAS backup with compression, encryption, bandwidth throttle and integrity check. */
import assert from 'node:assert/strict';
import { readdir, stat, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { execa } from 'execa';
import type { Backup } from '@holdfast/proto/holdfast/v1/backup.ts';
import { Stage, type OperationEvent, type StageFigures } from '@holdfast/proto/holdfast/v1/event.ts';
import {
  backupArgs,
  lastCopy,
  nasbackup,
  restoreAsCloudStack,
  type NasbackupResult,
} from '../e2e/support/nasbackup.ts';
import { compressedClusters, imageInfo, requireSameContent } from '../e2e/support/images.ts';
import { isStart } from '../e2e/support/events.ts';
import { filesWith } from '../e2e/support/marker.ts';
import { useHoldfast } from '../harness/fixture.ts';
import { processesNaming } from '../harness/leftovers.ts';
import { failed, succeeded, type Followed, type OnEvent } from '../harness/follow.ts';
import { startCeph } from '../lab/ceph.ts';
import { until } from '../lab/deadline.ts';
import type { Guest } from '../lab/guest.ts';
import { beforeText, MiB, type DiskSpec, type GuestDisk } from '../lab/spec.ts';
import { fileIn } from '../e2e/support/fileSystem.ts';
import {
  cephxXml,
  defineCephSecret,
  importDisk,
  rbdDiskXml,
  replaceDisks,
  requireSameAsImage,
  snapshotsOf,
} from '../e2e/support/rbd.ts';
import { qemuPrograms, type QemuPrograms } from './support/qemuPrograms.ts';

const COMPRESSION = { 'nas.backup.compression.enabled': 'true' };
const ENCRYPTION = {
  'nas.backup.encryption.enabled': 'true',
  'nas.backup.encryption.passphrase': 'correct horse battery staple, zone one',
};
const LIMIT_MIBPS = 50;
const BANDWIDTH = { 'nas.backup.bandwidth.limit.mbps': String(LIMIT_MIBPS) };
const CHECK = { 'nas.backup.integrity.check': 'true' };
/** Of the other zone, each another than in the zone that the tests are about. */
const OTHERS = {
  ...COMPRESSION,
  'nas.backup.bandwidth.limit.mbps': '900',
  'nas.backup.quiesce': 'best-effort',
};
const MARKER = 'HOLDFAST-ACCEPTANCE-MARKER';
/** Some may pass at once before a limit takes hold. */
const TOLERANCE = 1.1;

describe('the test plan', () => {
  let qemu: QemuPrograms;
  const fixture = useHoldfast({
    guest: {
      name: 'i-2-10-VM',
      disks: [
        {
          target: 'vda',
          fileName: 'volume-1',
          sizeBytes: 48 * MiB,
          content: { kind: 'files', fileBytes: 8 * MiB },
        },
        {
          target: 'vdb',
          fileName: 'volume-2',
          format: 'raw',
          // Larger than what is under way in a push before a limit takes hold.
          sizeBytes: 256 * MiB,
          content: { kind: 'random', everyMiB: 4, marker: MARKER },
        },
      ],
    },
    lab: { qemuUser: 'libvirt-qemu', mounts: 'shared' },
    holdfast: async (lab) => {
      qemu = await qemuPrograms(lab);
      return { agents: [{ zone: 'z1', env: { PATH: qemu.path } }, { zone: 'z2' }] };
    },
  });
  let count = 0;
  before(() => fixture.holdfast.client.setSettings('z2', OTHERS));

  /** A line of the plan, with its settings in zone z1. Another zone's settings stay untouched. */
  const line = (
    title: string,
    settings: Readonly<Record<string, string>>,
    test: () => Promise<void>,
  ): void => {
    it(title, async () => {
      const { client } = fixture.holdfast;
      const before = await settingsOf('z2');
      assert.equal(before['nas.backup.bandwidth.limit.mbps'], '900');
      await client.setSettings('z1', settings);
      try {
        await test();
      } finally {
        await client.setSettings('z1', {}, Object.keys(settings));
      }
      assert.deepEqual(await settingsOf('z2'), before);
    });
  };
  const settingsOf = async (zone: string): Promise<Record<string, string>> => {
    const { client } = fixture.holdfast;
    const { zones } = client;
    const answer = await client.call(zones.getSettings.bind(zones), { zone });
    return Object.fromEntries(answer.settings.map((each) => [each.key, each.value]));
  };
  const takeBackup = (
    guest: Guest = fixture.guest,
    settings: Readonly<Record<string, string>> = {},
    onEvent?: OnEvent,
  ): Promise<Followed> =>
    fixture.holdfast.client.takeBackup({ zone: 'z1', domain: guest.name, settings }, onEvent);
  const backupOf = (followed: Followed): Promise<Backup> =>
    fixture.holdfast.client.getBackup(succeeded(followed).backupId);
  const filesOf = (backup: Backup): Map<string, string> =>
    new Map(
      backup.manifest?.disks.map(({ target, file }) => [
        target,
        path.join(fixture.holdfast.repository(), backup.path, file),
      ]),
    );
  const newFolder = (): string => `i-2-10-VM/2026.01.31.12.00.0${++count}`;
  const inFolder = (folder: string, name = ''): string =>
    path.join(fixture.holdfast.repository(), folder, name);
  const dropIn = async (folder: string, ...flags: readonly string[]): Promise<NasbackupResult> => {
    const { holdfast, guest } = fixture;
    return nasbackup(holdfast, [...backupArgs(holdfast, guest.name, folder), ...flags]);
  };
  const dropInWell = async (...flags: readonly string[]): Promise<string> => {
    const folder = newFolder();
    const { exitCode, stdout } = await dropIn(folder, ...flags);
    assert.equal(exitCode, 0, stdout);
    return folder;
  };
  const restedDisk = (): GuestDisk => {
    const disk = fixture.guest.disks.find(({ target }) => target === 'vdb');
    assert.ok(disk);
    return disk;
  };
  /** Waits until libvirt says of the jobs of all disks that together they keep the limit. */
  const limitIsShown = (): Promise<true> =>
    until('virsh blockjob shows the limit', 20_000, async () => {
      const { lab, guest } = fixture;
      const limits = await Promise.all(
        guest.disks.map(async ({ target }) => {
          const info = await lab.virsh(['blockjob', guest.uuid, target, '--info', '--raw', '--bytes']);
          return Number(/bandwidth=(\d+)/.exec(info)?.[1] ?? 0);
        }),
      );
      return limits.reduce((sum, limit) => sum + limit, 0) === LIMIT_MIBPS * MiB ? true : undefined;
    });
  /** Waits until QEMU holds the limit under which it reads all disks of a pull. */
  const limitIsHeld = (): Promise<true> =>
    until('QEMU holds the limit', 20_000, async () => {
      const limits = (await qemu.property('limit', 'limits')) as Record<string, number>;
      return limits['bps-total'] === LIMIT_MIBPS * MiB ? true : undefined;
    });
  const ioClassOfReader = async (): Promise<string> => {
    const [reader] = (await processesNaming(fixture.holdfast.agent.runtimeDirectory)).filter(({ argv }) =>
      argv.some((word) => word.includes('qemu-storage-daemon')),
    );
    return (await execa('ionice', ['-p', String(reader?.pid)])).stdout;
  };
  const restored = async (backup: Backup): Promise<Map<string, { path: string; format: string }>> => {
    const { client, restoreDirectory } = fixture.holdfast;
    const request = { backupId: backup.id, host: 'host-1', directory: await restoreDirectory() };
    const { result } = succeeded(await client.restoreBackup(request)).result ?? {};
    assert.equal(result?.$case, 'restore');
    return new Map(result.value.disks.map((disk) => [disk.target, disk]));
  };

  line('all four off: no behavioural change, a plain, sparse qcow2 and nothing else', {}, async () => {
    const backup = await backupOf(await takeBackup());
    const folder = await dropInWell();
    const names = await readdir(inFolder(folder));
    assert.deepEqual(names.toSorted(), [
      'datadisk.volume-2.qcow2',
      ...['domain-config.xml', 'domblklist.xml', 'domiflist.xml', 'dominfo.xml'],
      'root.volume-1.qcow2',
    ]);
    const own = filesOf(backup);
    assert.equal(own.size, 2);
    for (const file of [...own.values(), ...names.filter(isImage).map((name) => inFolder(folder, name))]) {
      const info = await imageInfo(file);
      assert.deepEqual([info.format, info.encrypted ?? false], ['qcow2', false]);
      assert.equal(await compressedClusters(file), 0);
      assert.ok((await stat(file)).size < info['virtual-size'], 'holes are not stored');
    }
    for (const file of [own.get('vdb') ?? '', inFolder(folder, 'datadisk.volume-2.qcow2')])
      await requireSameContent(restedDisk(), { path: file, format: 'qcow2' });
  });

  line('compression enabled at zone scope: the backup files are compressed qcow2', COMPRESSION, async () => {
    const backup = await backupOf(await takeBackup());
    const folder = await dropInWell('-c');
    for (const file of [filesOf(backup).get('vda') ?? '', inFolder(folder, 'root.volume-1.qcow2')]) {
      assert.equal((await imageInfo(file)).format, 'qcow2');
      assert.ok((await compressedClusters(file)) > 0, file);
    }
    assert.ok(backup.storedBytes < backup.dataBytes);
  });

  line('a limit of 50 MiB/s on a running VM: it is applied', BANDWIDTH, async () => {
    let isHeld = false;
    const pulled = await takeBackup(fixture.guest, { 'nas.backup.transport': 'pull' }, async (event) => {
      if (isStart(event, Stage.STAGE_BLOCKJOB)) isHeld = await limitIsHeld();
    });
    assert.ok(isHeld);
    requireLimit(pulled);
    const { manifest } = await backupOf(pulled);
    assert.deepEqual([manifest?.domainRunning, manifest?.transport], [true, 'pull']);

    let isShown = false;
    const pushed = await takeBackup(fixture.guest, { 'nas.backup.transport': 'push' }, async (event) => {
      if (isStart(event, Stage.STAGE_BLOCKJOB)) isShown = await limitIsShown();
    });
    assert.ok(isShown);
    requireLimit(pushed);
    assert.equal((await backupOf(pushed)).manifest?.transport, 'push');

    await dropInWell('-b', '50');
    requireRate(await lastCopy(fixture.holdfast));
  });

  line('a limit of 50 MiB/s on a stopped VM: it is applied', BANDWIDTH, async () => {
    const { lab, holdfast } = fixture;
    const content = { kind: 'random', everyMiB: 2 } as const;
    const disks = [{ target: 'vda', fileName: 'volume-3', sizeBytes: 192 * MiB, content }];
    const stopped = await lab.guest({ name: 'i-2-11-VM', disks, start: false });
    let ioClass: string | undefined;
    const followed = await takeBackup(stopped, {}, async (event) => {
      if (isStart(event, Stage.STAGE_BLOCKJOB)) ioClass = await ioClassOfReader();
    });
    requireLimit(followed);
    assert.equal(ioClass, 'idle');
    assert.equal((await backupOf(followed)).manifest?.domainRunning, false);
    const volumes = [stopped.disks[0]?.path ?? ''];
    const { exitCode, stdout } = await nasbackup(holdfast, [
      ...backupArgs(holdfast, stopped.name, newFolder(), volumes),
      ...['-b', '50'],
    ]);
    assert.equal(exitCode, 0, stdout);
    requireRate(await lastCopy(fixture.holdfast));
  });

  line(
    'RBD with a limit of 50 MiB/s: it is applied, to a stopped VM and to a running one',
    BANDWIDTH,
    async () => {
      const { lab, holdfast } = fixture;
      const content = { kind: 'random', everyMiB: 2 } as const;
      const disk: DiskSpec = { target: 'vda', format: 'raw', sizeBytes: 144 * MiB, content };
      const guest = await lab.guest({ name: 'i-2-13-VM', disks: [disk], start: false });
      await using ceph = await startCeph();
      const image = `${ceph.pool}/volume-5`;
      await importDisk(ceph, guest.disks[0], image);
      const { key } = await ceph.makeUser('client.vm', ['mon', 'profile rbd', 'osd', 'profile rbd']);
      const access = cephxXml(ceph, 'vm', await defineCephSecret(lab, 'vm', key));
      await replaceDisks(lab, guest, [rbdDiskXml('vda', image, access)]);
      const requireImage = async (path: string): Promise<void> => {
        await requireSameAsImage(ceph, image, { path, format: 'qcow2' });
      };

      const monitors = ceph.monitors.replaceAll(':', '\\:');
      const volume = `rbd:${image}:mon_host=${monitors}:auth_supported=cephx:id=vm:key=${key}:rbd_default_format=2`;
      const folder = newFolder();
      const args = [...backupArgs(holdfast, 'i-2-14-VM', folder, [volume]), '-b', '50'];
      const { exitCode, stdout, stderr } = await nasbackup(holdfast, args);
      assert.equal(exitCode, 0, stdout);
      requireRate(await lastCopy(fixture.holdfast));
      assert.ok(!`${stdout}${stderr}${await holdfast.logs()}`.includes(key));
      await requireImage(inFolder(folder, 'root.volume-5.qcow2'));
      assert.deepEqual(await snapshotsOf(ceph, image), []);

      await guest.start();
      const running = await takeBackup(guest);
      requireLimit(running);
      const backup = await backupOf(running);
      assert.equal(backup.manifest?.domainRunning, true);
      await guest.destroy();
      await requireImage(filesOf(backup).get('vda') ?? '');
    },
  );

  line(
    'encryption enabled: qemu-img info says LUKS, and without the key there is no content',
    ENCRYPTION,
    async () => {
      const backup = await backupOf(await takeBackup());
      for (const file of filesOf(backup).values()) {
        const info = await imageInfo(file);
        assert.equal(info.encrypted, true);
        assert.equal(info['format-specific']?.data.encrypt?.format, 'luks');
        const { exitCode, stderr } = await convert(file, []);
        assert.notEqual(exitCode, 0);
        assert.match(stderr, /key-secret/);
        const wrong = path.join(fixture.lab.directory, 'wrong');
        await writeFile(wrong, 'another passphrase');
        assert.match((await convert(file, luksOptions(wrong, file))).stderr, /Invalid password/);
      }
      assert.deepEqual(await filesWith(inFolder(backup.path), MARKER, beforeText), []);
    },
  );

  line('integrity check: it runs and passes, and fails on a damaged image', CHECK, async () => {
    const followed = await takeBackup();
    assert.ok(followed.events.some(({ event }) => isFinished(event, Stage.STAGE_CHECK)));
    assert.equal((await backupOf(followed)).manifest?.checked, true);
    await dropInWell('--verify');

    const before = await readdir(fixture.holdfast.repository(), { recursive: true });
    const folder = newFolder();
    await qemu.damaging(async () => {
      const error = failed(await takeBackup());
      assert.equal(error.reason, 'CHECK_FAILED');
      const { exitCode, stdout } = await dropIn(folder, '--verify');
      assert.equal(exitCode, 1);
      assert.match(stdout, /^Backup verification failed/);
    });
    assert.deepEqual(await readdir(fixture.holdfast.repository(), { recursive: true }), before);
  });

  const all = { ...COMPRESSION, ...ENCRYPTION, ...BANDWIDTH, ...CHECK };
  line('several at once: compressed, encrypted, limited and checked', all, async () => {
    const followed = await takeBackup();
    requireLimit(followed);
    const backup = await backupOf(followed);
    assert.deepEqual([backup.compressed, backup.encrypted, backup.manifest?.checked], [true, true, true]);
    for (const file of filesOf(backup).values()) assert.equal((await imageInfo(file)).format, 'luks');
    assert.deepEqual(await filesWith(inFolder(backup.path), MARKER, beforeText), []);
    const disks = await restored(backup);
    await requireSameContent(restedDisk(), disks.get('vdb') ?? { path: '', format: '' });
  });

  line('restore of a compressed backup', COMPRESSION, async () => {
    const disks = await restored(await backupOf(await takeBackup()));
    await requireSameContent(restedDisk(), disks.get('vdb') ?? { path: '', format: '' });

    const { holdfast } = fixture;
    const folder = await dropInWell('-c');
    const directory = await holdfast.restoreDirectory();
    const image = (name: string): string => `${folder}/${name}`;
    const storage = holdfast.repository();
    await restoreAsCloudStack(storage, image('datadisk.volume-2.qcow2'), `${directory}/data`, 'rsync');
    await requireSameContent(restedDisk(), { path: `${directory}/data`, format: 'qcow2' });
    await restoreAsCloudStack(storage, image('root.volume-1.qcow2'), `${directory}/root`, 'raw');
    assert.equal(await fileIn(`${directory}/root`, '/before.txt'), beforeText);
  });

  line('restore of an encrypted backup', ENCRYPTION, async () => {
    const disks = await restored(await backupOf(await takeBackup()));
    await requireSameContent(restedDisk(), disks.get('vdb') ?? { path: '', format: '' });

    const { holdfast, lab, guest } = fixture;
    const passphrase = path.join(lab.directory, 'passphrase');
    await writeFile(passphrase, 'a passphrase of CloudStack’s', { mode: 0o600 });
    const stopped = await lab.guest({
      name: 'i-2-12-VM',
      disks: [{ target: 'vda', fileName: 'volume-4', sizeBytes: 8 * MiB, content: { kind: 'random' } }],
      start: false,
    });
    const volume = stopped.disks[0]?.path ?? '';
    const folder = newFolder();
    const { exitCode, stdout } = await nasbackup(holdfast, [
      ...backupArgs(holdfast, stopped.name, folder, [volume]),
      ...['-e', passphrase],
    ]);
    assert.equal(exitCode, 0, stdout);
    const file = inFolder(folder, 'root.volume-4.qcow2');
    const to = path.join(await holdfast.restoreDirectory(), 'root');
    assert.equal((await convert(file, luksOptions(passphrase, file), to)).stderr, '');
    await requireSameContent({ path: volume, format: 'qcow2' }, { path: to, format: 'qcow2' });
    assert.equal(await guest.state(), 'running');
  });
});

function isImage(name: string): boolean {
  return name.endsWith('.qcow2');
}

function isFinished(event: OperationEvent['event'], stage: Stage): boolean {
  return event?.$case === 'stageFinished' && event.value.stage === stage;
}

/** The job itself says the limit, and it was no faster. */
function requireLimit(followed: Followed): void {
  assert.equal(succeeded(followed).bandwidthLimitMibps, BigInt(LIMIT_MIBPS));
  const [figures] = followed.events.flatMap(({ event }) =>
    event?.$case === 'stageFinished' && event.value.stage === Stage.STAGE_BLOCKJOB
      ? [event.value.figures]
      : [],
  );
  requireRate(figures);
}

/** No faster than the limit, and long enough for it to matter. */
function requireRate(figures: Pick<StageFigures, 'inputBytes' | 'elapsedMs'> | undefined): void {
  assert.ok(figures && figures.inputBytes >= 64n * BigInt(MiB));
  const bytesPerSecond = Number(figures.inputBytes) / (Number(figures.elapsedMs) / 1_000);
  assert.ok(
    bytesPerSecond > 0 && bytesPerSecond <= LIMIT_MIBPS * MiB * TOLERANCE,
    `${bytesPerSecond / MiB} MiB/s`,
  );
}

/** Opens an encrypted image the way CloudStack does. */
function luksOptions(passphraseFile: string, image: string): string[] {
  return [
    ...['--object', `secret,id=sec0,file=${passphraseFile}`, '--image-opts'],
    `driver=qcow2,encrypt.key-secret=sec0,file.filename=${image}`,
  ];
}

async function convert(
  image: string,
  options: readonly string[],
  to = '/dev/null',
): Promise<{ readonly exitCode: number | undefined; readonly stderr: string }> {
  const source = options.length === 0 ? [image] : options;
  const format = to === '/dev/null' ? ['-n', '-O', 'raw'] : ['-O', 'qcow2'];
  const result = await execa('qemu-img', ['convert', ...format, ...source, to], {
    reject: false,
    timeout: 60_000,
  });
  return { exitCode: result.exitCode, stderr: result.stderr };
}
