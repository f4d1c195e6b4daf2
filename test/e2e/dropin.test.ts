import assert from 'node:assert/strict';
import { mkdir, readdir, readFile, rename, stat, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { execa } from 'execa';
import { useHoldfast } from '../harness/fixture.ts';
import { until } from '../lab/deadline.ts';
import { beforeText, MiB } from '../lab/spec.ts';
import { filesWith } from './support/marker.ts';
import { pageOf, type Page } from './support/page.ts';
import { fileIn, requireClean } from './support/fileSystem.ts';
import { compressedClusters, imageInfo, requireSameContent } from './support/images.ts';
import {
  backupArgs,
  lastCopy,
  nasbackup,
  restoreAsCloudStack,
  sizeAsCloudStackReads,
  startNasbackup,
} from './support/nasbackup.ts';

const MINUTE = 60_000;
const CLOUDSTACK_SCRIPT = '/usr/share/cloudstack-common/scripts/vm/hypervisor/kvm/nasbackup.sh';
const MARKER = 'HOLDFAST-DROPIN-MARKER-not-to-be-found';
/** CloudStack's volumes are files that are called by their id. */
const ROOT = '0f4b1b6c-8a51-4f0b-9f0d-1f7f3c1d0001';
const DATA = '0f4b1b6c-8a51-4f0b-9f0d-1f7f3c1d0002';
const ROOT_IMAGE = `root.${ROOT}.qcow2`;
const DATA_IMAGE = `datadisk.${DATA}.qcow2`;
/** A newline at the end belongs to the passphrase of a file: QEMU takes every byte. */
const PASSPHRASE = 'correct "horse", battery\\staple ünd mehr \n';

describe('the drop-in for nasbackup.sh', () => {
  const fixture = useHoldfast({
    guest: {
      name: 'i-2-10-VM',
      disks: [
        {
          target: 'vda',
          fileName: ROOT,
          sizeBytes: 64 * MiB,
          content: { kind: 'files', fileBytes: 8 * MiB },
        },
        { target: 'hdc', device: 'cdrom' },
        {
          target: 'vdb',
          fileName: DATA,
          sizeBytes: 64 * MiB,
          content: { kind: 'random', everyMiB: 4, marker: MARKER },
        },
      ],
    },
  });
  let page: Page;
  before(async () => {
    page = await pageOf('docs/cloudstack.md');
  });
  let count = 0;
  const newFolder = (): string => `i-2-10-VM/2026.01.31.12.00.${String(++count).padStart(2, '0')}`;
  /** Waits until an image of a backup that is being taken holds data. */
  const isWritten = (folder: string, image = ROOT_IMAGE): Promise<true> =>
    until('the backup is written', MINUTE, () => isGrowing(inRepository(`${folder}.partial`, image)));
  const inRepository = (...parts: readonly string[]): string =>
    path.join(fixture.holdfast.repository(), ...parts);
  const sourceOf = (target: string) => {
    const disk = fixture.guest.disks.find((each) => each.target === target);
    assert.ok(disk);
    return disk;
  };
  const oddVolumes = (): string[] => {
    const directory = path.join(fixture.lab.directory, 'disks', 'a "b", c\'s', 'x:y');
    return [path.join(directory, `r, ${ROOT}`), path.join(directory, DATA)];
  };
  const passphraseFile = async (): Promise<string> => {
    const file = path.join(fixture.lab.directory, 'passphrase');
    await writeFile(file, PASSPHRASE, { mode: 0o600 });
    return file;
  };
  const back = async (folder: string, ...flags: readonly string[]) => {
    const { holdfast, guest } = fixture;
    const result = await nasbackup(holdfast, [...backupArgs(holdfast, guest.name, folder), ...flags]);
    assert.equal(result.exitCode, 0, `${result.stdout}\n${result.stderr}`);
    return result;
  };
  const requireGone = async (folder: string): Promise<void> => {
    const left = await readdir(inRepository(path.dirname(folder)));
    assert.deepEqual(
      left.filter((name) => name.startsWith(path.basename(folder))),
      [],
    );
  };

  it('backs up a running VM: names, standard output, and a restore by rsync and by qemu-img', async () => {
    const { guest, holdfast } = fixture;
    const folder = newFolder();
    const args = backupArgs(holdfast, guest.name, folder).map((arg) => (arg === 'false' ? 'true' : arg));
    const { exitCode, stdout } = await nasbackup(holdfast, args);
    assert.equal(exitCode, 0, stdout);
    const names = await readdir(inRepository(folder));
    assert.deepEqual(
      names.toSorted(),
      [
        ...[DATA_IMAGE, 'domain-config.xml', 'domblklist.xml', 'domiflist.xml', 'dominfo.xml', ROOT_IMAGE],
      ].toSorted(),
    );
    const lengths = await Promise.all(
      names.map(async (name) => (await stat(inRepository(folder, name))).size),
    );
    assert.equal(
      sizeAsCloudStackReads(stdout, []),
      lengths.reduce((sum, length) => sum + length, 0),
    );
    assert.match(stdout, /^Job type: +Completed$/m);
    assert.match(
      await readFile(inRepository(folder, 'domain-config.xml'), 'utf8'),
      /<name>i-2-10-VM<\/name>/,
    );
    assert.match(await readFile(inRepository(folder, 'dominfo.xml'), 'utf8'), /^State: +running$/m);
    assert.match(
      await readFile(inRepository(folder, 'domblklist.xml'), 'utf8'),
      new RegExp(`vdb +.*${DATA}`),
    );

    const { format, encrypted } = await imageInfo(inRepository(folder, DATA_IMAGE));
    assert.deepEqual([format, encrypted ?? false], ['qcow2', false]);
    const restored = await holdfast.restoreDirectory();
    await restoreAsCloudStack(holdfast.repository(), `${folder}/${DATA_IMAGE}`, `${restored}/data`, 'rsync');
    await requireSameContent(sourceOf('vdb'), { path: `${restored}/data`, format: 'qcow2' });
    await restoreAsCloudStack(holdfast.repository(), `${folder}/${DATA_IMAGE}`, `${restored}/raw`, 'raw');
    await requireSameContent(sourceOf('vdb'), { path: `${restored}/raw`, format: 'raw' });
    await restoreAsCloudStack(holdfast.repository(), `${folder}/${ROOT_IMAGE}`, `${restored}/root`, 'raw');
    assert.equal(await fileIn(`${restored}/root`, '/before.txt'), beforeText);
    // With -q true the guest's file systems are frozen around the snapshot.
    await requireClean(`${restored}/root`);
    assert.equal(await guest.state(), 'running');
  });

  it('compresses with -c, limits with -b and checks with --verify', async () => {
    const { holdfast } = fixture;
    const folder = newFolder();
    await back(folder, '-c', '-b', '8', '--verify');
    const figures = await lastCopy(holdfast);
    assert.ok(figures && figures.inputBytes > 24n * BigInt(MiB));
    const bytesPerSecond = Number(figures.inputBytes) / (Number(figures.elapsedMs) / 1_000);
    assert.ok(bytesPerSecond < 8.8 * MiB, `${bytesPerSecond / MiB} MiB/s`);
    const file = inRepository(folder, ROOT_IMAGE);
    assert.ok((await compressedClusters(file)) > 0);
    const restored = await holdfast.restoreDirectory();
    await restoreAsCloudStack(holdfast.repository(), `${folder}/${DATA_IMAGE}`, `${restored}/data`, 'rsync');
    await requireSameContent(sourceOf('vdb'), { path: `${restored}/data`, format: 'qcow2' });
  });

  it('does all at once, with -c and -e together, and says nothing of the passphrase anywhere', async () => {
    const { holdfast, guest } = fixture;
    const folder = newFolder();
    const file = await passphraseFile();
    const flags = ['-c', '-e', file, '-b', '100', '--verify', '-M', 'full', '--bitmap-new', 'backup-1'];
    const { stdout, stderr } = await back(folder, ...flags);
    const image = inRepository(folder, DATA_IMAGE);
    assert.equal((await imageInfo(image)).format, 'luks');
    assert.deepEqual(await filesWith(inRepository(folder), MARKER), []);
    const restored = await holdfast.restoreDirectory();
    const open = await page.command(/file\.driver=luks/, opening(file, image, `${restored}/data`));
    assert.equal(open.exitCode, 0, open.stderr);
    await requireSameContent(sourceOf('vdb'), { path: `${restored}/data`, format: 'qcow2' });

    const words = PASSPHRASE.trim();
    assert.ok(!`${stdout}${stderr}`.includes('horse'));
    assert.deepEqual(await filesWith(holdfast.directory, words, JSON.stringify(words).slice(1, -1)), []);
    assert.equal(await guest.state(), 'running');
  });

  it('is switched to, checked and switched back as the page says', async () => {
    const { holdfast, guest, lab } = fixture;
    const theirs = path.join(lab.directory, 'nasbackup.sh');
    await writeFile(theirs, '#!/bin/sh\necho theirs\n', { mode: 0o755 });
    const folder = newFolder();
    const { address } = holdfast.agent;
    const env = { HOLDFAST_AGENT: address.kind === 'unix' ? `unix://${address.path}` : '', script: theirs };
    const told = {
      [CLOUDSTACK_SCRIPT]: theirs,
      '/opt/holdfast': path.resolve(import.meta.dirname, '../..'),
      '-t nfs -s nas:/export -m vers=4.2': `-t local -s '${holdfast.repository()}' -m ''`,
      '/mnt/nas/i-2-10-VM/2026.01.31.12.00.00': inRepository(folder),
    };
    const step = async (which: RegExp): Promise<string> => {
      const { exitCode, stdout, stderr } = await page.command(which, told, env);
      assert.equal(exitCode, 0, `${stdout}\n${stderr}`);
      return stdout;
    };
    await step(/^ln -s/m);
    assert.match(await step(/-o stats/), /^\/\S+\n\d+ \d+$/);
    await execa(theirs, backupArgs(holdfast, guest.name, folder), { env });
    assert.match(await step(/^qemu-img check/), /No errors were found/);
    await step(/^mv "\$script\.cloudstack"/);
    assert.equal((await execa(theirs)).stdout, 'theirs');
  });

  it('takes a full backup where an incremental one is asked for, and says so', async () => {
    const folder = newFolder();
    const parents = `${folder}-before/${ROOT_IMAGE},${folder}-before/${DATA_IMAGE}`;
    const flags = ['-M', 'incremental', '--bitmap-new', 'b2', '--bitmap-parent', 'b1'];
    const { stdout } = await back(folder, ...flags, '--parent-paths', parents);
    assert.match(stdout, /^INCREMENTAL_FALLBACK=true$/m);
    assert.ok(sizeAsCloudStackReads(stdout, []) > 0);
  });

  it('goes on when the agent is killed and started again', async () => {
    const { holdfast, guest } = fixture;
    const folder = newFolder();
    const running = startNasbackup(holdfast, [...backupArgs(holdfast, guest.name, folder), '-b', '4']);
    await isWritten(folder);
    await holdfast.agent.kill();
    await holdfast.agent.start();
    const { exitCode, stdout } = await running.ended;
    assert.equal(exitCode, 0, stdout);
    assert.ok(await isThere(inRepository(folder, ROOT_IMAGE)));
  });

  it('cancels the backup and removes it when CloudStack ends the program', async () => {
    const { holdfast, guest } = fixture;
    const folder = newFolder();
    const running = startNasbackup(holdfast, [...backupArgs(holdfast, guest.name, folder), '-b', '1']);
    await isWritten(folder);
    process.kill(running.pid, 'SIGTERM');
    const { exitCode, stdout } = await running.ended;
    assert.equal(exitCode, 1);
    assert.match(stdout, /\[CANCELLED\]/);
    await requireGone(folder);
  });

  it('ends with 20 when it fails and cannot remove what it wrote; a deletion removes it later', async () => {
    const { holdfast, guest } = fixture;
    const folder = newFolder();
    const args = [...backupArgs(holdfast, guest.name, folder), '-b', '1'];
    const running = startNasbackup(holdfast, args);
    await isWritten(folder);
    // A mount in the folder cannot be removed.
    const stuck = inRepository(`${folder}.partial`, 'stuck');
    await mkdir(stuck);
    await execa('mount', ['-t', 'tmpfs', 'none', stuck]);
    try {
      process.kill(running.pid, 'SIGTERM');
      const { exitCode, stdout } = await running.ended;
      assert.equal(exitCode, 20, stdout);
      assert.match(stdout, /^Backup cleanup failed$/m);
    } finally {
      await execa('umount', [stuck]);
    }
    const place = ['-t', 'local', '-s', holdfast.repository(), '-m', '', '-p', folder];
    assert.equal((await nasbackup(holdfast, ['-o', 'delete', ...place])).exitCode, 0);
    await requireGone(folder);
  });

  it('refuses what is wrong before anything is touched', async () => {
    const { holdfast, guest } = fixture;
    const before = await readdir(holdfast.repository(), { recursive: true });
    const args = backupArgs(holdfast, guest.name, newFolder());
    const taken = (await readdir(inRepository('i-2-10-VM')))[0] ?? '';
    const cases: readonly (readonly [readonly string[], RegExp])[] = [
      [backupArgs(holdfast, 'no such VM', newFolder()), /\[DOMAIN_NOT_FOUND\]/],
      [backupArgs(holdfast, guest.name, `i-2-10-VM/${taken}`), /\[TARGET_EXISTS\]/],
      [
        backupArgs(holdfast, 'no such VM', newFolder(), ['/nowhere/volume']),
        /\/nowhere\/volume cannot be read/,
      ],
      [
        backupArgs(holdfast, 'no such VM', newFolder(), ['rbd:pool/volume:id=admin:key=HUSH']),
        /^(?!.*HUSH).*key that was given for RBD image pool\/volume.*\[VOLUME_REFUSED\]/,
      ],
      [
        backupArgs(holdfast, 'no such VM', newFolder(), ['rbd:volume:key=HUSH']),
        /^(?!.*HUSH).*rbd:volume" is no RBD image.*\[DISK_UNSUPPORTED\]/,
      ],
      [args.map((arg) => (arg === holdfast.repository() ? '/nowhere' : arg)), /\[REPOSITORY_UNUSABLE\]/],
    ];
    await Promise.all(
      cases.map(async ([wrong, message]) => {
        const { exitCode, stdout } = await nasbackup(holdfast, wrong);
        assert.equal(exitCode, 1, stdout);
        assert.match(stdout, message);
      }),
    );
    const away = await nasbackup(holdfast, args, { HOLDFAST_AGENT: 'unix:///nowhere/agent.sock' });
    assert.equal(away.exitCode, 1);
    assert.match(away.stdout, /Is holdfast-agent running\?.*\[AGENT_UNREACHABLE\]/);
    assert.deepEqual(await readdir(holdfast.repository(), { recursive: true }), before);
  });

  it('says how much space the storage has, as df does', async () => {
    const { holdfast } = fixture;
    const storage = ['-t', 'local', '-s', holdfast.repository(), '-m', ''];
    const { exitCode, stdout } = await nasbackup(holdfast, ['-o', 'stats', ...storage]);
    assert.equal(exitCode, 0, stdout);
    const [, total, used] = stdout.split(/\s+/).map(Number);
    const df = await execa('df', ['-P', holdfast.repository()]);
    const [, dfTotal, dfUsed] = (df.stdout.split('\n')[1] ?? '').split(/\s+/).map(Number);
    assert.equal(total, dfTotal);
    // Others write to the same disk.
    assert.ok(Math.abs((used ?? 0) - (dfUsed ?? 0)) < 1024 * 1024, `${used} and ${dfUsed}`);
  });

  it('deletes a backup, one that is gone already too, and nothing that is not a backup', async () => {
    const { holdfast } = fixture;
    const place = ['-t', 'local', '-s', holdfast.repository(), '-m', '', '-p'];
    const [name = ''] = await readdir(inRepository('i-2-10-VM'));
    const folder = `i-2-10-VM/${name}`;
    const refused = await nasbackup(holdfast, ['-o', 'delete', ...place, 'i-2-10-VM']);
    assert.equal(refused.exitCode, 1);
    assert.match(refused.stdout, /is not a backup/);
    assert.ok(await isThere(inRepository(folder)));
    for (let time = 0; time < 2; time++) {
      const deleted = await nasbackup(holdfast, ['-o', 'delete', ...place, folder]);
      assert.equal(deleted.exitCode, 0, deleted.stdout);
      await requireGone(folder);
    }
    assert.ok((await readdir(inRepository('i-2-10-VM'))).length > 0);
  });

  it('backs up a VM that libvirt does not know, by its volumes, whatever their names', async () => {
    const { holdfast, guest } = fixture;
    await guest.shutdown();
    await guest.undefine();
    const volumes = oddVolumes();
    await mkdir(path.dirname(volumes[0] ?? ''), { recursive: true });
    await rename(sourceOf('vda').path ?? '', volumes[0] ?? '');
    await rename(sourceOf('vdb').path ?? '', volumes[1] ?? '');
    const folder = `i-2-10 "VM", x/${newFolder()}`;
    const args = backupArgs(holdfast, guest.name, `/${folder}/`, volumes);
    const { exitCode, stdout } = await nasbackup(holdfast, [...args, '-c', '--verify', '-b', '500']);
    assert.equal(exitCode, 0, stdout);
    const names = await readdir(inRepository(folder));
    assert.deepEqual(names.toSorted(), [DATA_IMAGE, `root.r, ${ROOT}.qcow2`]);
    const lengths = await Promise.all(
      names.map(async (name) => (await stat(inRepository(folder, name))).size),
    );
    assert.equal(
      sizeAsCloudStackReads(stdout, volumes),
      lengths.reduce((sum, length) => sum + length, 0),
    );
    const restored = await holdfast.restoreDirectory();
    for (const [index, name] of [`root.r, ${ROOT}.qcow2`, DATA_IMAGE].entries()) {
      const to = `${restored}/${index}`;
      await restoreAsCloudStack(holdfast.repository(), `${folder}/${name}`, to, 'rsync');
      await requireSameContent({ path: volumes[index], format: 'qcow2' }, { path: to, format: 'qcow2' });
    }
  });

  it('encrypts with -e: LUKS opens with every byte of the file, at full cost, and with nothing else', async () => {
    const { holdfast, guest, lab } = fixture;
    const folder = newFolder();
    const file = await passphraseFile();
    const volume = oddVolumes()[1] ?? '';
    const args = [...backupArgs(holdfast, guest.name, folder, [volume]), '-e', file];
    const { exitCode, stdout } = await nasbackup(holdfast, args);
    assert.equal(exitCode, 0, stdout);
    const image = inRepository(folder, `root.${DATA}.qcow2`);
    const info = await execa('qemu-img', ['info', '--output=json', image]);
    const { encrypt } = (
      JSON.parse(info.stdout) as {
        'format-specific': {
          data: { encrypt: { format: string; slots: { active: boolean; iters?: number }[] } };
        };
      }
    )['format-specific'].data;
    assert.equal(encrypt.format, 'luks');
    const [slot] = encrypt.slots.filter(({ active }) => active);
    assert.ok((slot?.iters ?? 0) > 100_000, `${slot?.iters ?? 0} iterations`);
    assert.deepEqual(await filesWith(inRepository(folder), MARKER), []);

    const convert = (secret: string, out: string) =>
      page.command(/encrypt\.key-secret/, opening(secret, image, out));
    const restored = await holdfast.restoreDirectory();
    assert.equal((await convert(file, `${restored}/data`)).stderr, '');
    await requireSameContent(
      { path: volume, format: 'qcow2' },
      { path: `${restored}/data`, format: 'qcow2' },
    );
    const trimmed = path.join(lab.directory, 'trimmed');
    await writeFile(trimmed, PASSPHRASE.trim());
    assert.match((await convert(trimmed, `${restored}/other`)).stderr, /Invalid password/);
  });

  it('throws the copy away when such a VM is started meanwhile, and backs it up as it runs', async () => {
    const { holdfast, guest, lab } = fixture;
    const volumes = oddVolumes();
    const folder = newFolder();
    const args = [...backupArgs(holdfast, guest.name, folder, volumes), '-b', '4'];
    const running = startNasbackup(holdfast, args);
    await isWritten(folder, DATA_IMAGE);
    const again = await lab.guest({
      name: guest.name,
      disks: volumes.map((source, index) => ({
        target: index === 0 ? 'vda' : 'vdb',
        source,
        format: 'qcow2',
      })),
    });
    const { exitCode, stdout, stderr } = await running.ended;
    assert.equal(exitCode, 0, stdout);
    assert.match(stderr, /was started while its images were read/);
    assert.ok(sizeAsCloudStackReads(stdout, volumes) > 0);
    assert.match(await readFile(inRepository(folder, 'dominfo.xml'), 'utf8'), /^State: +running$/m);
    await again.destroy();
    await requireSameContent(
      { path: volumes[1], format: 'qcow2' },
      { path: inRepository(folder, DATA_IMAGE), format: 'qcow2' },
    );
  });
});

/** The words of the page's commands that a reader replaces. */
function opening(passphraseFile: string, image: string, restored: string): Record<string, string> {
  return { 'PASSPHRASE-FILE': passphraseFile, 'root.VOLUME.qcow2': image, 'restored.qcow2': restored };
}

/** Whether an image has got more than the metadata of an empty one. */
async function isGrowing(file: string): Promise<true | undefined> {
  const info = await stat(file).catch(() => undefined);
  return info !== undefined && info.size > MiB ? true : undefined;
}

async function isThere(file: string): Promise<true | undefined> {
  return stat(file).then(
    () => true,
    () => undefined,
  );
}
