import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { mkdir, readdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { HoldfastError } from '@holdfast/common/errors.ts';
import { silentLogger } from '@holdfast/common/logger.ts';
import { OperationEvent } from '@holdfast/proto/holdfast/v1/event.ts';
import { LeftoverKind, LeftoverState } from '@holdfast/proto/holdfast/v1/leftover.ts';
import { jobFiles, jobRoots, type JobRoots } from '../jobs/spec.ts';
import type { UnfinishedJob } from '../jobs/jobs.ts';
import { allProcesses, signalProcess } from '../process/identity.ts';
import { startStorageDaemon, storageDaemonPids } from '../qemu/storageDaemon.ts';
import { never } from '../testing/daemon.ts';
import { temporaryDirectory } from '../testing/directory.ts';
import { output, smallFileSystem } from '../testing/mount.ts';
import { scriptedRbd } from '../testing/rbd.ts';
import { scriptedVirsh } from '../testing/virsh.ts';
import type { Found, LookParts } from './found.ts';
import { leftOnHost, removeFromHost } from './onHost.ts';

const K = LeftoverKind;
const S = LeftoverState;
const DOMAIN = 'dddddddd-dddd-4ddd-8ddd-dddddddddddd';
const dead = randomUUID();
const alive = randomUUID();
const gone = { exitCode: 1, stderr: 'error: Operation not possible: no domain backup job present' };

describe('what is left on a host', () => {
  let directory: Awaited<ReturnType<typeof temporaryDirectory>>;
  let roots: JobRoots;
  let known: string[];
  let unfinished: UnfinishedJob[];
  let undone: string[];
  beforeEach(async () => {
    directory = await temporaryDirectory();
    roots = jobRoots({
      stateDirectory: join(directory.path, 's'),
      runtimeDirectory: join(directory.path, 'r'),
      scratchDirectory: join(directory.path, 'x'),
    });
    const { jobs, runtime, sockets, scratch, locks } = roots;
    for (const path of [jobs, runtime, sockets, scratch, locks, join(directory.path, 'r', 'mounts')])
      await mkdir(path, { recursive: true });
    [known, unfinished, undone] = [[], [], []];
  });
  afterEach(() => directory[Symbol.asyncDispose]());

  const partsWith = (virsh = scriptedVirsh(() => ({}))): LookParts => ({
    jobs: {
      isAtWork: (jobId) => Promise.resolve(jobId === alive),
      knows: (jobId) => Promise.resolve(known.includes(jobId)),
      unfinished: () => Promise.resolve(unfinished),
      undo: (jobId) => {
        undone.push(jobId);
        unfinished = [];
        return Promise.resolve();
      },
    },
    virsh,
    roots,
    runtimeDirectory: join(directory.path, 'r'),
    mountsDirectory: join(directory.path, 'r', 'mounts'),
    keysDirectory: join(directory.path, 'keys'),
    credentialsOf: () => undefined,
  });
  const look = async (parts: LookParts): Promise<readonly Found[]> => (await leftOnHost(parts)).found;
  const named = (found: readonly Found[]): string[] =>
    found.map(({ kind, state, name }) => `${kind} ${state} ${name.split('/').at(-1) ?? ''}`);

  it('is nothing on a host on which nothing was left, and on one that never had a job', async () => {
    assert.deepEqual(await leftOnHost(partsWith()), { found: [], busyJobIds: [], problems: [] });
    await directory[Symbol.asyncDispose]();
    assert.deepEqual(await look(partsWith()), []);
  });

  it('is what dead jobs have, not what living ones have, and what is not named after a job is kept', async () => {
    for (const root of [roots.scratch, roots.sockets, roots.runtime, roots.jobs])
      for (const name of [dead, alive, 'photos']) {
        await mkdir(join(root, name));
        await writeFile(join(root, name, 'file'), 'x');
      }
    await writeFile(join(roots.locks, 'one'), dead);
    await writeFile(join(roots.locks, 'two'), alive);
    await writeFile(join(roots.locks, 'three'), 'of somebody');
    const found = await look(partsWith());
    const removable = found.filter(({ state }) => state === S.LEFTOVER_STATE_REMOVABLE);
    assert.deepEqual(new Set(removable.map(({ jobId }) => jobId)), new Set([dead]));
    assert.equal(removable.length, 5);
    assert.equal(found.length, 9);
    const removed = await removeFromHost(partsWith(), () => true);
    assert.deepEqual(
      removed.map(({ state }) => state),
      removable.map(() => S.LEFTOVER_STATE_REMOVED),
    );
    for (const root of [roots.scratch, roots.sockets, roots.runtime, roots.jobs])
      assert.deepEqual((await readdir(root)).sort(), [alive, 'photos'].sort(), root);
    assert.deepEqual((await readdir(roots.locks)).sort(), ['three', 'two']);
    assert.equal((await look(partsWith())).length, 4);
  });

  it('is not what a job has that ends meanwhile', async () => {
    const path = join(roots.scratch, dead);
    await mkdir(path);
    const parts = partsWith();
    let asked = 0;
    const isAtWork = async (): Promise<boolean> => {
      // Its directory was seen; then it ends, and has no process any more.
      if (asked++ === 0) await rm(path, { recursive: true });
      return false;
    };
    assert.deepEqual(await look({ ...parts, jobs: { ...parts.jobs, isAtWork } }), []);
    assert.equal(asked, 1);
  });

  it('is removed only as far as it was asked for', async () => {
    for (const root of [roots.scratch, roots.runtime]) await mkdir(join(root, dead));
    const removed = await removeFromHost(partsWith(), ({ kind }) => kind === K.LEFTOVER_KIND_SCRATCH);
    assert.equal(removed.length, 1);
    assert.deepEqual(await readdir(roots.runtime), [dead]);
  });

  it('is a job whose journal owes something, which is undone from there', async () => {
    unfinished = [{ jobId: dead, kind: 'TakeBackup', pending: ['thaw domain d'], complaints: ['Too bad.'] }];
    const [found] = await look(partsWith());
    assert.equal(found?.kind, K.LEFTOVER_KIND_UNFINISHED_JOB);
    assert.match(found.reason, /thaw domain d.*Too bad\./);
    await removeFromHost(partsWith(), () => true);
    assert.deepEqual(undone, [dead]);
  });

  it('is a qemu-storage-daemon of a dead job, and no process that only names the same files', async () => {
    for (const jobId of [dead, alive]) await mkdir(join(roots.runtime, jobId));
    const socket = join(roots.runtime, dead, 'qmp.sock');
    const bystander = spawn('tail', ['-f', '/dev/null', socket], { stdio: 'ignore' });
    const daemons = await Promise.all(
      [dead, alive].map((jobId) => startStorageDaemon(join(roots.runtime, jobId), silentLogger, never)),
    );
    try {
      const { found, busyJobIds } = await leftOnHost(partsWith());
      assert.deepEqual(
        found.filter(({ kind }) => kind === K.LEFTOVER_KIND_PROCESS).map(({ jobId }) => jobId),
        [dead],
      );
      assert.deepEqual([...busyJobIds].sort(), [dead, alive].sort());
      const removed = await removeFromHost(partsWith(), () => true);
      assert.ok(removed.every(({ state }) => state === S.LEFTOVER_STATE_REMOVED));
      assert.deepEqual(await storageDaemonPids(join(roots.runtime, dead)), []);
      assert.equal((await storageDaemonPids(join(roots.runtime, alive))).length, 1);
      assert.equal(bystander.exitCode ?? bystander.signalCode, null);
    } finally {
      for (const daemon of daemons) await daemon.quit();
      bystander.kill('SIGKILL');
      await once(bystander, 'exit');
    }
  });

  it('is a runner that does not end, and the helper of a repository whose parent is gone', async () => {
    const parts = partsWith();
    const ended = new Date(Date.now() - 120_000);
    for (const jobId of [dead, alive]) {
      await mkdir(join(roots.jobs, jobId));
      const time = jobId === dead ? ended : new Date();
      const failed = OperationEvent.fromPartial({
        time,
        event: { $case: 'failed', value: { message: 'x' } },
      });
      const entry = { kind: 'event', event: OperationEvent.toJSON(failed) };
      await writeFile(jobFiles(join(roots.jobs, jobId)).journal, `${JSON.stringify(entry)}\n`);
      await writeFile(jobFiles(join(roots.jobs, jobId)).spec, '{}');
    }
    const programs = [
      ['/agent/jobs/runner.ts', join(roots.jobs, dead)],
      ['/agent/jobs/runner.ts', join(roots.jobs, alive)],
      ['/agent/jobs/runner.ts', join(roots.jobs, dead), '--recover'],
      ['/agent/repository/helper.ts', join(parts.mountsDirectory, '0123456789abcdef', 'fs')],
      ['/agent/repository/helper.ts', '/mnt/of-another'],
    ];
    const script = 'tail -f -- /dev/null "$@" >/dev/null 2>&1 & echo $!';
    const pids: number[] = [];
    for (const args of programs) pids.push(Number(await output('sh', ['-c', script, 'sh', ...args])));
    const own = spawn('tail', ['-f', '/dev/null', ...(programs[3] ?? [])], { stdio: 'ignore' });
    try {
      const processes = (await look(parts)).filter(({ kind }) => kind === K.LEFTOVER_KIND_PROCESS);
      assert.deepEqual(processes.map(({ name }) => name).sort(), [
        `helper, process ${pids[3] ?? ''}`,
        `runner, process ${pids[0] ?? ''}`,
      ]);
      const removed = await removeFromHost(parts, ({ kind }) => kind === K.LEFTOVER_KIND_PROCESS);
      assert.ok(removed.every(({ state }) => state === S.LEFTOVER_STATE_REMOVED));
      const left = (await allProcesses()).map(({ pid }) => pid);
      assert.deepEqual(
        pids.map((pid) => left.includes(pid)),
        [false, true, true, false, true],
      );
      assert.ok(left.includes(own.pid ?? 0));
    } finally {
      own.kill('SIGKILL');
      for (const pid of pids) signalProcess(pid, 'SIGKILL');
    }
  });

  it('is a mount that nobody uses; a stranger’s mount is kept, and nothing below a mount is removed', async () => {
    const parts = partsWith();
    const place = join(parts.mountsDirectory, '0123456789abcdef');
    await mkdir(join(place, 'fs'), { recursive: true });
    await output('mount', ['-t', 'tmpfs', '-o', 'size=1M', 'holdfast-test', join(place, 'fs')]);
    await using _strange = await smallFileSystem(join(roots.scratch, dead, 'data'), 'size=1M');
    await using _other = await smallFileSystem(join(parts.mountsDirectory, 'usb'), 'size=1M');
    await writeFile(join(roots.scratch, dead, 'data', 'precious'), 'x');
    const found = await look(parts);
    assert.deepEqual(
      named(found).sort(),
      [
        `${K.LEFTOVER_KIND_MOUNT} ${S.LEFTOVER_STATE_REMOVABLE} fs`,
        `${K.LEFTOVER_KIND_MOUNT} ${S.LEFTOVER_STATE_KEPT} usb`,
        `${K.LEFTOVER_KIND_SCRATCH} ${S.LEFTOVER_STATE_REMOVABLE} ${dead}`,
      ].sort(),
    );
    const removed = await removeFromHost(parts, () => true);
    const scratch = removed.find(({ kind }) => kind === K.LEFTOVER_KIND_SCRATCH);
    assert.equal(scratch?.state, S.LEFTOVER_STATE_FAILED);
    assert.match(scratch.reason, /still mounted/);
    assert.equal(removed.find(({ kind }) => kind === K.LEFTOVER_KIND_MOUNT)?.state, S.LEFTOVER_STATE_REMOVED);
    assert.deepEqual(await readdir(join(roots.scratch, dead, 'data')), ['precious']);
  });

  describe('of domains', () => {
    const xml = (socket: string, scratch: string): string =>
      `<domainbackup mode='pull'><server transport='unix' socket='${socket}'/>
        <disks><disk name='vda'><scratch file='${scratch}'/></disk></disks></domainbackup>`;
    const libvirt = (answers: Record<string, () => object>) =>
      scriptedVirsh(([command = '']) => {
        if (command === 'list') return { stdout: `${DOMAIN}\n` };
        if (command === 'dumpxml') return { stdout: '<domain/>' };
        return answers[command]?.() ?? (command === 'backup-dumpxml' ? gone : {});
      });

    it('is a backup job with our scratch images, and neither another agent’s nor anybody else’s', async () => {
      let running = true;
      const own = libvirt({
        'backup-dumpxml': () =>
          running
            ? { stdout: xml(`/d/holdfast-${dead}.sock`, join(roots.scratch, dead, 'vda.qcow2')) }
            : gone,
        domjobabort: () => {
          running = false;
          return {};
        },
      });
      const [found] = await look(partsWith(own));
      assert.equal(found?.kind, K.LEFTOVER_KIND_LIBVIRT_JOB);
      const [removed] = await removeFromHost(partsWith(own), () => true);
      assert.equal(removed?.state, S.LEFTOVER_STATE_REMOVED);
      for (const [socket, scratch, state] of [
        [`/d/holdfast-${dead}.sock`, `/other/${dead}/vda.qcow2`, S.LEFTOVER_STATE_KEPT],
        ['/d/virtnbdbackup.sock', '/var/tmp/vda', S.LEFTOVER_STATE_KEPT],
        [`/d/holdfast-${alive}.sock`, join(roots.scratch, alive, 'vda.qcow2'), undefined],
      ] as const) {
        const virsh = libvirt({ 'backup-dumpxml': () => ({ stdout: xml(socket, scratch) }) });
        assert.equal((await look(partsWith(virsh)))[0]?.state, state, socket);
        await removeFromHost(partsWith(virsh), () => true);
        assert.ok(!virsh.told.some(([command]) => command === 'domjobabort'));
      }
    });

    it('stays with all that its job has, while the job does not end', async () => {
      await mkdir(join(roots.scratch, dead));
      const virsh = libvirt({
        'backup-dumpxml': () => ({ stdout: xml(`/d/holdfast-${dead}.sock`, join(roots.scratch, dead, 'a')) }),
        domjobabort: () => {
          throw new Error('QEMU does not answer.');
        },
      });
      const removed = await removeFromHost(partsWith(virsh), () => true);
      assert.deepEqual(
        removed.map(({ state }) => state),
        [S.LEFTOVER_STATE_FAILED, S.LEFTOVER_STATE_FAILED],
      );
      assert.deepEqual(await readdir(roots.scratch), [dead]);
      await removeFromHost(partsWith(virsh), ({ kind }) => kind === K.LEFTOVER_KIND_SCRATCH);
      assert.deepEqual(await readdir(roots.scratch), [dead]);
    });

    it('is a frozen guest whose lock a dead job has; any other is kept', async () => {
      let frozen = true;
      const virsh = libvirt({
        'qemu-agent-command': () => ({ stdout: `{"return":"${frozen ? 'frozen' : 'thawed'}"}\n` }),
        domfsthaw: () => {
          frozen = false;
          return {};
        },
      });
      assert.equal((await look(partsWith(virsh)))[0]?.state, S.LEFTOVER_STATE_KEPT);
      await writeFile(join(roots.locks, DOMAIN), alive);
      assert.deepEqual(await look(partsWith(virsh)), []);
      await writeFile(join(roots.locks, DOMAIN), dead);
      const removed = await removeFromHost(partsWith(virsh), () => true);
      assert.deepEqual(
        removed.map(({ kind, state }) => [kind, state]),
        [
          [K.LEFTOVER_KIND_LOCK, S.LEFTOVER_STATE_REMOVED],
          [K.LEFTOVER_KIND_FROZEN_GUEST, S.LEFTOVER_STATE_REMOVED],
        ],
      );
      assert.deepEqual(
        virsh.told.filter(([command]) => command === 'domfsthaw'),
        [['domfsthaw', DOMAIN]],
      );
    });

    it('is a checkpoint with our name and a job that this host knows; of another the controller decides', async () => {
      known = [dead];
      const other = randomUUID();
      const names = [
        'nightly',
        `holdfast-${dead}`,
        `holdfast-${alive}`,
        `holdfast-${other}`,
        'holdfast-mine',
      ];
      const virsh = libvirt({ 'checkpoint-list': () => ({ stdout: `${names.join('\n')}\n` }) });
      const found = await look(partsWith(virsh));
      assert.deepEqual(
        found.map(({ jobId, state }) => [jobId, state]),
        [
          [dead, S.LEFTOVER_STATE_REMOVABLE],
          [other, S.LEFTOVER_STATE_UNDECIDED],
        ],
      );
      await removeFromHost(partsWith(virsh), ({ jobId }) => jobId === dead);
      assert.deepEqual(
        virsh.told.filter(([command]) => command === 'checkpoint-delete'),
        [['checkpoint-delete', DOMAIN, `holdfast-${dead}`]],
      );
    });

    it('is a snapshot of an RBD image with our name and a job that this host knows', async () => {
      known = [dead];
      using rbd = await scriptedRbd(directory.path);
      const names = ['daily', `holdfast-${dead}`, `holdfast-${alive}`];
      await rbd.answer('snap-ls', { stdout: JSON.stringify(names.map((name) => ({ name }))) });
      const disk = `<disk type='network'><source protocol='rbd' name='p/i'/><target dev='vda'/></disk>`;
      const xml = `<domain><devices>${disk}${disk.replace('p/i', 'p/j')}</devices></domain>`;
      const virsh = scriptedVirsh(([command = '']) => {
        if (command === 'backup-dumpxml') return gone;
        return { stdout: { list: `${DOMAIN}\n`, dumpxml: xml }[command] ?? '' };
      });
      const found = await look(partsWith(virsh));
      assert.deepEqual(
        found.map(({ name, state }) => [name, state]),
        ['i', 'j'].map((image) => [`p/${image}@holdfast-${dead}`, S.LEFTOVER_STATE_REMOVABLE]),
      );
      await removeFromHost(partsWith(virsh), ({ name }) => name.startsWith('p/j'));
      const removed = (await rbd.told()).filter((line) => line.includes('snap rm'));
      assert.equal(removed.length, 1);
      assert.ok(removed[0]?.endsWith(`p/j@holdfast-${dead}`));
      await rbd.answer('snap-ls', { exitCode: 1, stderr: 'rbd: (110) Connection timed out' });
      assert.deepEqual(
        (await leftOnHost(partsWith(virsh))).problems.map(({ reason }) => reason),
        ['VOLUME_STALLED', 'VOLUME_STALLED'],
      );
    });

    it('is not known without libvirt, so that nothing is removed that a domain may work with', async () => {
      await mkdir(join(roots.scratch, dead));
      const virsh = scriptedVirsh(() => ({ exitCode: 1, stderr: 'error: failed to connect' }));
      const down = new HoldfastError('LIBVIRT_FAILED', 'down');
      const silent: typeof virsh = { ...virsh, command: () => Promise.reject(down) };
      const { found, problems } = await leftOnHost(partsWith(silent));
      assert.equal(found[0]?.state, S.LEFTOVER_STATE_KEPT);
      assert.equal(problems[0]?.reason, 'LIBVIRT_FAILED');
      await removeFromHost(partsWith(silent), () => true);
      assert.deepEqual(await readdir(roots.scratch), [dead]);
    });
  });
});
