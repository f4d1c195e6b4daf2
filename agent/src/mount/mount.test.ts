import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmod, mkdir, readdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { lockShared } from '@holdfast/common/fileLock.ts';
import { ProgramFailed, run } from '../process/run.ts';
import { temporaryDirectory } from '../testing/directory.ts';
import { output } from '../testing/mount.ts';
import { ensureMounted, requireMounted } from './mount.ts';
import { mountPlace, placeAt, privateMountPlace, type MountPlace } from './place.ts';
import type { MountPlan } from './plan.ts';
import { mountAt } from './table.ts';
import { unmountLeft, unmountUnused } from './unmount.ts';

const DEADLINE_MS = 10_000;

/** Mounts a small file system that is really there; counts how often. */
function tmpfs(options = 'size=1M'): MountPlan & { count: number } {
  const plan = {
    count: 0,
    fileSystems: ['tmpfs'],
    mount: ({ point }: MountPlace) => {
      plan.count++;
      return run('mount', ['-t', 'tmpfs', '-o', options, 'holdfast-test', point], {
        deadlineMs: DEADLINE_MS,
      });
    },
  };
  return plan;
}

function saying(stderr: string, exitCode = 32): MountPlan {
  return { fileSystems: ['tmpfs'], mount: () => Promise.resolve({ exitCode, stdout: '', stderr }) };
}

describe('mounting', function () {
  this.timeout(60_000);
  let directory: Awaited<ReturnType<typeof temporaryDirectory>>;
  let place: MountPlace;
  beforeEach(async () => {
    directory = await temporaryDirectory();
    place = placeAt(join(directory.path, `a 'place', "odd"\\`));
    await mkdir(place.directory);
  });
  afterEach(async () => {
    for (const name of await readdir(directory.path)) {
      const { point } = placeAt(join(directory.path, name));
      while ((await mountAt(point)) !== undefined) await output('umount', ['--lazy', point]);
    }
    await directory[Symbol.asyncDispose]();
  });

  it('mounts once for all who ask at the same time, and unmounts when the last is gone', async () => {
    const plan = tmpfs();
    const users = [lockShared(place.users), lockShared(place.users)];
    const devices = await Promise.all([ensureMounted(place, plan), ensureMounted(place, plan)]);
    assert.equal(devices[0], devices[1]);
    assert.equal(plan.count, 1);
    await requireMounted(place.point, devices[0]);
    users[0]?.release();
    assert.equal(await unmountUnused(place), 'used');
    assert.ok(await mountAt(place.point));
    users[1]?.release();
    assert.equal(await unmountUnused(place), 'gone');
    assert.equal(await mountAt(place.point), undefined);
    assert.deepEqual((await readdir(place.directory)).sort(), ['turn', 'users']);
    assert.equal(await unmountUnused(place), 'gone');
  });

  it('is not fooled by a mount that says it was made, nor by another file system', async () => {
    await assert.rejects(ensureMounted(place, saying('', 0)), {
      reason: 'MOUNT_FAILED',
      message: /it is not/,
    });
    await assert.rejects(ensureMounted(place, { ...tmpfs(), fileSystems: ['nfs4'] }), {
      reason: 'MOUNT_FAILED',
      message: /something else.*tmpfs/,
    });
    assert.equal(await mountAt(place.point), undefined);
  });

  it('refuses what can only be read, and takes it back', async () => {
    for (const options of ['size=1M,ro']) {
      await assert.rejects(ensureMounted(place, tmpfs(options)), {
        reason: 'REPOSITORY_UNUSABLE',
        message: /read-only/,
      });
      assert.equal(await mountAt(place.point), undefined);
    }
  });

  it('finds out when somebody unmounts it meanwhile', async () => {
    const device = await ensureMounted(place, tmpfs());
    await output('umount', [place.point]);
    await assert.rejects(requireMounted(place.point, device), {
      reason: 'REPOSITORY_FAILED',
      message: /unmounted/,
    });
  });

  it('says who is to blame for a mount that failed', async () => {
    for (const [stderr, reason, message] of [
      ['mount.nfs: access denied by server while mounting nas:/x\n', 'MOUNT_FAILED', /access denied/],
      ['mount.nfs: Failed to resolve server nas: Name or service not known', 'MOUNT_FAILED', /resolve/],
      ['mount.nfs: Connection timed out', 'REPOSITORY_STALLED', /does not answer/],
      [
        'mount error(13): Permission denied\nRefer to the mount.cifs(8) manual page',
        'MOUNT_FAILED',
        /Permission/,
      ],
      ['mount error(113): could not connect to 10.0.0.1', 'REPOSITORY_STALLED', /could not connect/],
      ["mount: /x: unknown filesystem type 'nfs'.", 'MOUNT_FAILED', /nfs-common/],
      ['', 'MOUNT_FAILED', /no reason/],
    ] as const) {
      await assert.rejects(ensureMounted(place, saying(stderr)), { reason, message }, stderr);
    }
    const late: MountPlan = {
      fileSystems: [],
      mount: () => Promise.reject(new ProgramFailed('mount -t: did not end within 1 ms')),
    };
    await assert.rejects(ensureMounted(place, late), { reason: 'REPOSITORY_STALLED' });
  });

  it('unmounts what is busy lazily, and its user goes on', async () => {
    await ensureMounted(place, tmpfs());
    const file = join(place.point, 'file');
    const user = spawn('sh', [
      '-c',
      'exec 3>"$1"; echo open; read go; echo written >&3; cat "/proc/$$/fd/3"',
      'sh',
      file,
    ]);
    await once(user.stdout, 'data');
    assert.equal(await unmountUnused(place), 'lazily');
    assert.equal(await mountAt(place.point), undefined);
    assert.deepEqual((await readdir(place.directory)).sort(), ['turn', 'users']);
    user.stdin.end('go\n');
    const [code] = (await once(user, 'exit')) as [number];
    assert.equal(code, 0);
  });

  it('waits for what is busy for a moment', async () => {
    await ensureMounted(place, tmpfs());
    const user = spawn('sh', ['-c', 'cd "$1"; echo in; sleep 1', 'sh', place.point]);
    await once(user.stdout, 'data');
    assert.equal(await unmountUnused(place), 'gone');
  });

  it('takes out of the tree what does not answer to umount', async () => {
    await ensureMounted(place, tmpfs());
    // A umount(8) that waits for a dead server unless it is told not to.
    const bin = join(directory.path, 'bin');
    await mkdir(bin);
    const real = (await output('which', ['umount'])).trim();
    const fixture = `#!/bin/sh\ncase "$*" in *--force*--lazy*) exec ${real} "$@";; *) exec sleep 60;; esac\n`;
    await writeFile(join(bin, 'umount'), fixture);
    await chmod(join(bin, 'umount'), 0o755);
    const path = process.env['PATH'];
    process.env['PATH'] = `${bin}:${path ?? ''}`;
    try {
      assert.equal(await unmountUnused(place), 'lazily');
    } finally {
      process.env['PATH'] = path;
      await rm(bin, { recursive: true });
    }
    assert.equal(await mountAt(place.point), undefined);
  });

  it('finds what killed processes left, and leaves alone what living ones use', async () => {
    const used = placeAt(join(directory.path, 'used'));
    await mkdir(used.directory);
    const user = lockShared(used.users);
    await ensureMounted(used, tmpfs());
    await ensureMounted(place, tmpfs());
    const once = privateMountPlace(directory.path);
    await mkdir(once.directory);
    await ensureMounted(once, tmpfs());
    assert.deepEqual(await unmountLeft(directory.path), []);
    assert.equal(await mountAt(place.point), undefined);
    assert.ok(await mountAt(used.point));
    assert.ok(!(await readdir(directory.path)).includes(once.directory.split('/').at(-1) ?? ''));
    user?.release();
    assert.deepEqual(await unmountLeft(join(directory.path, 'nothing')), []);
  });

  it('never removes what somebody has put into the empty mount point', async () => {
    await mkdir(place.point);
    await writeFile(join(place.point, 'theirs'), '');
    assert.equal(await unmountUnused(place), 'gone');
    assert.deepEqual(await readdir(place.point), ['theirs']);
  });

  it('has one place for one address, user and set of options', () => {
    const source = { type: 3 as const, address: '//nas/x', mountOptions: ['seal'] };
    const user = { username: 'u', domain: '' };
    const one = mountPlace('/m', source, user);
    assert.deepEqual(mountPlace('/m', { ...source }, { ...user }), one);
    for (const other of [
      mountPlace('/m', { ...source, address: '//nas/y' }, user),
      mountPlace('/m', { ...source, mountOptions: [] }, user),
      mountPlace('/m', source, { ...user, username: 'v' }),
      mountPlace('/m', source, undefined),
    ]) {
      assert.notEqual(other.directory, one.directory);
    }
  });
});
