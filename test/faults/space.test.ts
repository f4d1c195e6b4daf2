import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { appendFile, mkdir, open, rm, statfs } from 'node:fs/promises';
import path from 'node:path';
import { execa } from 'execa';
import type { HoldfastError } from '@holdfast/common/errors.ts';
import { Stage } from '@holdfast/proto/holdfast/v1/event.ts';
import { ListOperationsRequest } from '@holdfast/proto/holdfast/v1/operation.ts';
import { AddRepositoryRequest, RepositoryType } from '@holdfast/proto/holdfast/v1/repository.ts';
import { isStart } from '../e2e/support/events.ts';
import { filesDisk, restingDisk, slowly } from '../e2e/support/guests.ts';
import { useHoldfast } from '../harness/fixture.ts';
import { failed, succeeded, type Followed } from '../harness/follow.ts';
import { processesNaming } from '../harness/leftovers.ts';
import { namesBelow } from '../harness/namesBelow.ts';
import { until } from '../lab/deadline.ts';
import { MiB } from '../lab/spec.ts';
import { nothingLeft } from './support/nothingLeft.ts';

describe('a repository that cannot take a backup', () => {
  const fixture = useHoldfast({
    guest: { disks: [{ ...restingDisk(24), target: 'vda' }], agent: false, start: false },
  });
  const register = async (name: string, at: string): Promise<void> => {
    const { client } = fixture.holdfast;
    const type = RepositoryType.REPOSITORY_TYPE_LOCAL;
    await client.call(
      client.repositories.addRepository.bind(client.repositories),
      AddRepositoryRequest.fromPartial({
        zone: 'z1',
        name,
        type,
        path: at,
      }),
    );
  };
  const backup = (repository: string, settings: Record<string, string> = {}): Promise<Followed> =>
    fixture.holdfast.client.takeBackup({ zone: 'z1', domain: fixture.guest.uuid, repository, settings });
  /** Everything in it but the folder of the domain, which is empty, and what was there when it was added. */
  const content = async (at: string): Promise<string[]> =>
    (await namesBelow(at)).filter(
      (name) => ![fixture.guest.uuid, 'lost+found', 'repository-id'].includes(name),
    );
  const directory = async (name: string): Promise<string> => {
    const at = path.join(fixture.holdfast.directory, name);
    await mkdir(at);
    return at;
  };

  for (const [how, settings] of [
    ['plain', {}],
    ['compressed', { 'nas.backup.compression.enabled': 'true' }],
  ] as const) {
    it(`since it is too small is REPOSITORY_FULL, and nothing is left in it (${how})`, async () => {
      const at = await directory(`small ${how}`);
      await using mounts = new AsyncDisposableStack();
      await execa('mount', ['-t', 'tmpfs', '-o', 'size=10M', 'tmpfs', at]);
      mounts.defer(() => unmount(at));
      await register(`small-${how}`, at);
      assert.equal(failed(await backup(`small-${how}`, settings)).reason, 'REPOSITORY_FULL');
      assert.deepEqual(await content(at), []);
      await nothingLeft(fixture.lab, fixture.holdfast, [at]);
    });
  }

  it('since what is kept free would not be is REPOSITORY_FULL, before anything is made and in the middle', async () => {
    const at = await directory('reserved');
    await using mounts = new AsyncDisposableStack();
    await execa('mount', ['-t', 'tmpfs', '-o', 'size=64M', 'tmpfs', at]);
    mounts.defer(() => unmount(at));
    await register('reserved', at);
    const reserve = { 'nas.backup.repository.reserve.percent': '80' };
    const refused = await backup('reserved', reserve);
    const refusal = failed(refused);
    assert.equal(refusal.reason, 'REPOSITORY_FULL');
    assert.match(refusal.message, /Nothing was made/);
    assert.ok(!refused.events.some((event) => isStart(event, Stage.STAGE_CONVERT)));
    // How well it can be compressed is not known before.
    const compressed = { ...reserve, ...slowly, 'nas.backup.compression.enabled': 'true' };
    const givenUp = await backup('reserved', compressed);
    assert.match(failed(givenUp).message, /kept free/);
    assert.equal(failed(givenUp).reason, 'REPOSITORY_FULL');
    assert.ok(givenUp.events.some((event) => isStart(event, Stage.STAGE_CONVERT)));
    assert.deepEqual(await content(at), []);
    await nothingLeft(fixture.lab, fixture.holdfast, [at]);
  });

  it('since it is full is REPOSITORY_FULL before anything is made', async () => {
    const at = await directory('full');
    await using mounts = new AsyncDisposableStack();
    await execa('mount', ['-t', 'tmpfs', '-o', 'size=1M', 'tmpfs', at]);
    mounts.defer(() => unmount(at));
    await register('full', at);
    const { bavail, bsize } = await statfs(at);
    await execa('fallocate', ['-l', String(bavail * bsize), path.join(at, 'other')]);
    assert.equal(failed(await backup('full')).reason, 'REPOSITORY_FULL');
    assert.deepEqual(await content(at), ['other']);
    await nothingLeft(fixture.lab, fixture.holdfast, [at]);
  });

  it('since it became read-only is REPOSITORY_UNUSABLE', async () => {
    const at = await directory('read-only');
    await using mounts = new AsyncDisposableStack();
    await execa('mount', ['-t', 'tmpfs', '-o', 'size=64M', 'tmpfs', at]);
    mounts.defer(() => unmount(at));
    await register('read-only', at);
    await execa('mount', ['-o', 'remount,ro', at]);
    assert.equal(failed(await backup('read-only')).reason, 'REPOSITORY_UNUSABLE');
    await nothingLeft(fixture.lab, fixture.holdfast, [at]);
  });

  it('since it may not be written to is REPOSITORY_UNUSABLE', async () => {
    const at = await directory('immutable');
    await register('immutable', at);
    await execa('chattr', ['+i', at]);
    try {
      assert.equal(failed(await backup('immutable')).reason, 'REPOSITORY_UNUSABLE');
    } finally {
      await execa('chattr', ['-i', at]);
    }
    assert.deepEqual(await content(at), []);
    await nothingLeft(fixture.lab, fixture.holdfast);
  });

  it('is no reason against another one', async () => {
    const followed = await backup('nas-z1');
    const { backupId } = succeeded(followed);
    const { client, repository } = fixture.holdfast;
    const result = succeeded(followed).result?.result;
    assert.equal(result?.$case, 'backup');
    // The L1 table of the qcow2 is made to point nowhere; its length stays.
    const image = await open(path.join(repository(), result.value.path, 'vda.qcow2'), 'r+');
    const { buffer } = await image.read(Buffer.alloc(8), 0, 8, 40);
    await image.write(Buffer.from('8000000000000200', 'hex'), 0, 8, Number(buffer.readBigUInt64BE()));
    await image.close();
    assert.equal(failed(await client.verifyBackup({ backupId })).reason, 'BACKUP_DAMAGED');
    await nothingLeft(fixture.lab, fixture.holdfast);
  });

  it('a limit that is negative or absurd is refused while the backup runs', async () => {
    const { client } = fixture.holdfast;
    const followed = await client.takeBackup(
      { zone: 'z1', domain: fixture.guest.uuid, repository: 'nas-z1', settings: slowly },
      async (event) => {
        if (!isStart(event, Stage.STAGE_CONVERT)) return;
        const { operations: all } = await client.call(
          client.operations.listOperations.bind(client.operations),
          ListOperationsRequest.fromPartial({ zone: 'z1', pageSize: 1, activeOnly: true }),
        );
        const operationId = all[0]?.id ?? '';
        for (const value of [-1n, 1_048_577n, 2n ** 62n]) {
          const change = { $case: 'bandwidthLimitMibps', value } as const;
          await assert.rejects(
            client.call(client.operations.updateOperation.bind(client.operations), { operationId, change }),
            { reason: 'INVALID_REQUEST', code: 3 },
          );
        }
        const change = { $case: 'bandwidthLimitMibps', value: 0n } as const;
        await client.call(client.operations.updateOperation.bind(client.operations), { operationId, change });
      },
    );
    succeeded(followed);
  });
});

describe('scratch space that runs out', () => {
  const stack = new AsyncDisposableStack();
  // Before the fixture's own `after`, which removes the lab.
  after(() => stack.disposeAsync());
  const fixture = useHoldfast({ guest: { disks: [filesDisk, restingDisk(96)] } });
  before(async () => {
    const { lab, holdfast } = fixture;
    const { scratchDirectory } = holdfast.agent;
    // One file system in two mount namespaces: that of the agent and that of QEMU.
    const disk = path.join(holdfast.directory, 'scratch.ext4');
    await appendFile(disk, '');
    await execa('truncate', ['-s', '48M', disk]);
    await execa('mke2fs', ['-q', '-t', 'ext4', '-m', '0', disk]);
    const { stdout: loop } = await execa('losetup', ['--find', '--show', disk]);
    stack.defer(async () => {
      await execa('losetup', ['--detach', loop]);
    });
    await execa('mount', [loop, scratchDirectory]);
    stack.defer(() => unmount(scratchDirectory));
    const [program = '', ...args] = lab.enter(['mount', loop, scratchDirectory]);
    await execa(program, args);
    stack.defer(async () => {
      const [inside = '', ...rest] = lab.enter(['umount', '--lazy', scratchDirectory]);
      await execa(inside, rest);
    });
    await execa('chmod', ['711', scratchDirectory]);
    await execa('rmdir', [path.join(scratchDirectory, 'lost+found')]);
  });
  afterEach(() => nothingLeft(fixture.lab, fixture.holdfast, [fixture.holdfast.agent.scratchDirectory]));

  /** A slow backup in which the guest overwrites a disk from its end, so that nothing of it was copied before. */
  const overwriting = async (
    script: string,
    meanwhile: (jobId: string, write: () => Promise<unknown>) => Promise<unknown> = (_, write) => write(),
  ): Promise<HoldfastError> => {
    const { holdfast, guest } = fixture;
    const written = `/data/${randomUUID()}`;
    const arg = ['-c', `(${script}); echo $? > ${written}; sync`];
    const { id } = await holdfast.client.startBackup({
      zone: 'z1',
      domain: guest.uuid,
      settings: { 'nas.backup.bandwidth.limit.mbps': '1' },
    });
    const write = () => guest.command('guest-exec', { path: '/bin/sh', arg });
    const followed = await holdfast.client.follow(id, async (event) => {
      if (isStart(event, Stage.STAGE_CONVERT)) await meanwhile(id, write);
    });
    assert.equal(await guest.state(), 'running');
    const exitCode = await until('The guest has written everything', 120_000, () =>
      guest.readFile(written).then(
        (text) => (text === '' ? undefined : text.trim()),
        () => undefined,
      ),
    );
    assert.equal(exitCode, '0');
    return failed(followed);
  };

  it('ends the backup before the guest notices', async () => {
    const error = await overwriting(
      'for i in $(seq 383 -1 128); do dd if=/dev/zero of=/dev/vdb bs=256k count=1 seek=$i conv=notrunc,fsync || exit 1; done',
    );
    assert.equal(error.reason, 'SCRATCH_FULL', error.message);
    assert.match(error.message, /given up/);
  });

  it('before anyone can act does not leave the guest stopped, and loses none of its writes', async () => {
    const { guest } = fixture;
    const error = await overwriting(
      'dd if=/dev/zero of=/dev/vdb bs=1M count=64 seek=32 conv=notrunc,fsync',
      async (jobId, write) => {
        const runners = (await processesNaming(jobId)).filter(({ argv }) =>
          argv.some((word) => word.endsWith('runner.ts')),
        );
        assert.equal(runners.length, 1);
        for (const { pid } of runners) process.kill(pid, 'SIGSTOP');
        await write();
        await until('QEMU stops the guest', 60_000, async () =>
          (await guest.state()) === 'paused' ? true : undefined,
        );
        for (const { pid } of runners) process.kill(pid, 'SIGCONT');
      },
    );
    assert.equal(error.reason, 'SCRATCH_FULL', error.message);
  });

  it('keeps a backup from being begun', async () => {
    const { holdfast, guest } = fixture;
    const { scratchDirectory } = holdfast.agent;
    const { bavail, bsize } = await statfs(scratchDirectory);
    const other = path.join(scratchDirectory, 'other');
    await execa('fallocate', ['-l', String(bavail * bsize - MiB), other]);
    const settings = { 'nas.backup.transport': 'pull' };
    const error = failed(await holdfast.client.takeBackup({ zone: 'z1', domain: guest.uuid, settings }));
    await rm(other);
    assert.equal(error.reason, 'SCRATCH_FULL');
    assert.match(error.message, /not begun/);
  });
});

async function unmount(at: string): Promise<void> {
  await execa('umount', ['--lazy', at]);
}
