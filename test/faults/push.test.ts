import assert from 'node:assert/strict';
import { mkdir, readFile } from 'node:fs/promises';
import path from 'node:path';
import { execa } from 'execa';
import { AddRepositoryRequest, RepositoryType } from '@holdfast/proto/holdfast/v1/repository.ts';
import { filesDisk } from '../e2e/support/guests.ts';
import { useHoldfast } from '../harness/fixture.ts';
import { failed, type Followed } from '../harness/follow.ts';
import { processesNaming } from '../harness/leftovers.ts';
import { until } from '../lab/deadline.ts';
import { mountFaulty } from '../lab/faulty.ts';
import type { Guest } from '../lab/guest.ts';
import { MiB } from '../lab/spec.ts';
import { nothingLeft } from './support/nothingLeft.ts';

const PUSH = { 'nas.backup.transport': 'push', 'nas.backup.bandwidth.limit.mbps': '2' };
const SIZE_MIB = 256;

/**
 * Writes all the time to the end of the second disk, which no backup has got to yet: each write has to wait until the old
 * data is pushed. Each line of the log is the time before a write, that after it, and its exit code.
 */
const WRITER = `#!/bin/sh
block=4096
while [ ! -e /run/stop ]; do
  block=$((block - 1))
  before=$(cut -d' ' -f1 /proc/uptime)
  dd if=/dev/urandom of=/dev/vdb bs=64k count=1 seek=$block conv=notrunc,fsync 2>/dev/null
  echo "$before $(cut -d' ' -f1 /proc/uptime) $?" >>/run/writes
  usleep 50000
done
touch /run/stopped
`;

interface Write {
  readonly seconds: number;
}

async function whileWriting(guest: Guest, work: () => Promise<void>): Promise<readonly Write[]> {
  await guest.exec(['/bin/rm', '-f', '/run/stop', '/run/stopped', '/run/writes']);
  await guest.writeFile('/run/write.sh', WRITER);
  await guest.command('guest-exec', { path: '/bin/sh', arg: ['/run/write.sh'] });
  await work();
  await guest.exec(['/bin/touch', '/run/stop']);
  await until('The last write ends', 30_000, async () =>
    (await guest.exec(['/bin/ls', '/run'])).stdout.includes('stopped') ? true : undefined,
  );
  const lines = (await guest.readFile('/run/writes')).trim().split('\n');
  return lines.map((line) => {
    const [before = '', after = ''] = line.split(' ');
    return { seconds: Number(after) - Number(before) };
  });
}

const longest = (writes: readonly Write[]): number => Math.max(...writes.map(({ seconds }) => seconds));

describe('a pushed backup', () => {
  const fixture = useHoldfast({
    lab: { qemuUser: 'libvirt-qemu', mounts: 'shared' },
    guest: {
      disks: [
        filesDisk,
        {
          target: 'vdb',
          format: 'raw',
          sizeBytes: SIZE_MIB * MiB,
          content: { kind: 'random', everyMiB: 2 },
        },
      ],
    },
  });
  const mounts: string[] = [];
  afterEach(() => nothingLeft(fixture.lab, fixture.holdfast, mounts));

  /** Takes a backup, and does something once it copies slowly. */
  async function during(
    act: (jobId: string) => Promise<void>,
    repository = 'nas-z1',
    settings: Record<string, string> = PUSH,
  ): Promise<Followed> {
    const { guest, holdfast } = fixture;
    const { client } = holdfast;
    const domain = guest.name;
    const { id } = await client.startBackup({ zone: 'z1', domain, repository, settings });
    let acted = false;
    return client.follow(id, async ({ event }) => {
      if (acted || event?.$case !== 'stageProgress') return;
      if ((event.value.figures?.processedBytes ?? 0n) < BigInt(64 * MiB)) return;
      acted = true;
      await act(id);
    });
  }
  async function daemon(jobId: string, which: 'writer' | 'exporter'): Promise<number> {
    const found = (await processesNaming(jobId)).filter(({ argv }) => argv[0] === 'qemu-storage-daemon');
    const pid = found.find(
      ({ argv }) => argv.join(' ').includes('/exporter/') === (which === 'exporter'),
    )?.pid;
    assert.ok(pid !== undefined);
    return pid;
  }
  async function killRunner(jobId: string): Promise<void> {
    const runner = (await processesNaming(jobId)).find(({ argv }) =>
      argv.some((each) => each.endsWith('/jobs/runner.ts')),
    );
    assert.ok(runner);
    process.kill(runner.pid, 'SIGKILL');
  }
  /** The guest saw no error on any disk, which its kernel would have told. */
  async function requireUnharmed(): Promise<void> {
    const { stdout } = await fixture.guest.exec(['/bin/dmesg']);
    assert.doesNotMatch(stdout, /I\/O error/);
    assert.equal(await fixture.guest.state(), 'running');
  }

  it('into a repository that hangs is REPOSITORY_STALLED; a write waits five seconds at most, and none fails', async () => {
    let error: Error | undefined;
    const writes = await whileWriting(fixture.guest, async () => {
      const followed = await during(async (jobId) => {
        process.kill(await daemon(jobId, 'writer'), 'SIGSTOP');
      });
      const reason = failed(followed);
      error = reason;
      assert.equal(reason.reason, 'REPOSITORY_STALLED', reason.message);
    });
    assert.match(error?.message ?? '', /nas-z1/);
    assert.ok(longest(writes) > 2, `a write waited: ${longest(writes)} s`);
    assert.ok(longest(writes) < 5.5, `${longest(writes)} s`);
    await requireUnharmed();
  });

  it('whose writer cannot even be killed, in a file system that hangs, lets the guest go all the same', async () => {
    const { holdfast, guest } = fixture;
    const { client, directory } = holdfast;
    await using nas = await mountFaulty(path.join(directory, 'faulty'), path.join(directory, 'faulty-files'));
    await client.call(
      client.repositories.addRepository.bind(client.repositories),
      AddRepositoryRequest.fromPartial({
        ...{ zone: 'z1', name: 'faulty', type: RepositoryType.REPOSITORY_TYPE_LOCAL, path: nas.point },
      }),
    );
    const writes = await whileWriting(guest, async () => {
      const followed = await during(async (jobId) => {
        const writer = await daemon(jobId, 'writer');
        nas.hang();
        await until('The writer was killed in vain', 20_000, async () =>
          /^SigPnd:.*[1-9a-f]|^ShdPnd:.*[1-9a-f]/m.test(await readFile(`/proc/${writer}/status`, 'utf8'))
            ? true
            : undefined,
        );
        const linesNow = async (): Promise<number> =>
          (await guest.readFile('/run/writes')).split('\n').length;
        const before = await linesNow();
        await until('The guest writes on', 20_000, async () =>
          (await linesNow()) > before + 5 ? true : undefined,
        );
        await nas.heal();
      }, 'faulty');
      assert.equal(failed(followed).reason, 'REPOSITORY_STALLED');
    });
    assert.ok(longest(writes) < 5.5, `${longest(writes)} s`);
    await requireUnharmed();
    await nothingLeft(fixture.lab, holdfast, [...mounts, nas.point]);
  });

  it('into a repository that is full is REPOSITORY_FULL, and no write of the guest fails', async () => {
    const { holdfast } = fixture;
    const at = path.join(holdfast.directory, 'small');
    await mkdir(at);
    await using stack = new AsyncDisposableStack();
    await execa('mount', ['-t', 'tmpfs', '-o', 'size=48M', 'tmpfs', at]);
    mounts.push(at);
    stack.defer(async () => {
      await execa('umount', ['--lazy', at]);
    });
    const { client } = holdfast;
    await client.call(
      client.repositories.addRepository.bind(client.repositories),
      AddRepositoryRequest.fromPartial({
        zone: 'z1',
        name: 'small',
        type: RepositoryType.REPOSITORY_TYPE_LOCAL,
        path: at,
      }),
    );
    const writes = await whileWriting(fixture.guest, async () => {
      // Compressed, since a plain one would be refused before it began.
      const compressed = { ...PUSH, 'nas.backup.compression.enabled': 'true' };
      const error = failed(await during(() => Promise.resolve(), 'small', compressed));
      assert.equal(error.reason, 'REPOSITORY_FULL', error.message);
    });
    assert.ok(longest(writes) < 5.5, `${longest(writes)} s`);
    await requireUnharmed();
    await nothingLeft(fixture.lab, holdfast, mounts);
  });

  it('whose runner is killed is RUNNER_DIED, and the guest writes on', async () => {
    const writes = await whileWriting(fixture.guest, async () => {
      const followed = await during(killRunner);
      assert.equal(failed(followed).reason, 'RUNNER_DIED');
    });
    assert.ok(longest(writes) < 5.5, `${longest(writes)} s`);
    await requireUnharmed();
  });

  it('into a repository that hangs, whose runner and agent are killed, lets the guest go all the same', async () => {
    const { agent } = fixture.holdfast;
    const writes = await whileWriting(fixture.guest, async () => {
      const followed = await during(async (jobId) => {
        process.kill(await daemon(jobId, 'writer'), 'SIGSTOP');
        await Promise.all([killRunner(jobId), agent.kill()]);
        await until('The guest is let go', 20_000, async () =>
          (await fixture.lab.virsh(['domjobinfo', fixture.guest.uuid])).includes('None') ? true : undefined,
        );
        await agent.start();
      });
      assert.equal(failed(followed).reason, 'RUNNER_DIED');
    });
    assert.ok(longest(writes) < 5.5, `${longest(writes)} s`);
    await requireUnharmed();
  });

  for (const [what, hang] of [
    ['that is cancelled', false],
    ['that is cancelled while its repository hangs', true],
  ] as const) {
    it(`${what} leaves nothing, within five seconds`, async () => {
      const { client } = fixture.holdfast;
      let cancelledMs = Infinity;
      const writes = await whileWriting(fixture.guest, async () => {
        const followed = await during(async (operationId) => {
          if (hang) process.kill(await daemon(operationId, 'writer'), 'SIGSTOP');
          cancelledMs = performance.now();
          await client.call(client.operations.cancelOperation.bind(client.operations), { operationId });
        });
        const tookMs = performance.now() - cancelledMs;
        assert.equal(failed(followed).reason, 'CANCELLED');
        assert.ok(tookMs > 0 && tookMs < 5_500, `${tookMs} ms`);
      });
      assert.ok(longest(writes) < 5.5, `${longest(writes)} s`);
      await requireUnharmed();
    });
  }

  it('whose writer is killed is REPOSITORY_FAILED or QEMU_FAILED, and no write fails', async () => {
    const writes = await whileWriting(fixture.guest, async () => {
      const followed = await during(async (jobId) => {
        process.kill(await daemon(jobId, 'writer'), 'SIGKILL');
      });
      assert.match(failed(followed).reason, /^(REPOSITORY|QEMU)_FAILED$/);
    });
    assert.ok(longest(writes) < 5.5, `${longest(writes)} s`);
    await requireUnharmed();
  });

  // The last, since it does harm the guest's second disk.
  it('whose exporter itself hangs lets the guest go all the same', async () => {
    const writes = await whileWriting(fixture.guest, async () => {
      const followed = await during(async (jobId) => {
        process.kill(await daemon(jobId, 'exporter'), 'SIGSTOP');
      });
      assert.equal(failed(followed).reason, 'REPOSITORY_STALLED');
    });
    assert.ok(longest(writes) < 6.5, `${longest(writes)} s`);
    assert.equal(await fixture.guest.state(), 'running');
  });
});

describe('a host without shared mounts', () => {
  const fixture = useHoldfast({ lab: { mounts: 'private' }, guest: { disks: [filesDisk], agent: false } });

  it('cannot push: that is PUSH_UNUSABLE before the guest is touched', async () => {
    const { lab, guest, holdfast } = fixture;
    const error = failed(
      await holdfast.client.takeBackup({ zone: 'z1', domain: guest.name, settings: PUSH }),
    );
    assert.equal(error.reason, 'PUSH_UNUSABLE');
    assert.match(error.message, /shared mount/);
    await nothingLeft(lab, holdfast);
  });
});
