import assert from 'node:assert/strict';
import { mkdir, readdir } from 'node:fs/promises';
import path from 'node:path';
import { execa } from 'execa';
import { Stage } from '@holdfast/proto/holdfast/v1/event.ts';
import {
  AddRepositoryRequest,
  RepositoryState,
  RepositoryType,
} from '@holdfast/proto/holdfast/v1/repository.ts';
import { isStart } from '../e2e/support/events.ts';
import { restingDisk } from '../e2e/support/guests.ts';
import { requireSameContent } from '../e2e/support/images.ts';
import { nothingLeft } from '../faults/support/nothingLeft.ts';
import { useHoldfast } from '../harness/fixture.ts';
import { failed, succeeded, type Followed } from '../harness/follow.ts';
import { processesNaming } from '../harness/leftovers.ts';
import { namesBelow } from '../harness/namesBelow.ts';
import { startCeph, type Ceph } from '../lab/ceph.ts';
import { until } from '../lab/deadline.ts';
import { MiB } from '../lab/spec.ts';

/** So that there is time to do something in the middle. */
const SLOWLY = { 'nas.backup.bandwidth.limit.mbps': '4' };

describe('faults of a real CephFS', function () {
  this.timeout(300_000);
  const fixture = useHoldfast({
    guest: { disks: [{ target: 'vda', sizeBytes: 48 * MiB, content: { kind: 'random' } }], start: false },
  });
  const stack = new AsyncDisposableStack();
  let ceph: Ceph;
  /** The whole file system, to look at what lies there. */
  let outside: string;
  before(async () => {
    ceph = stack.use(await startCeph());
    const capabilities = ['mon', 'allow r', 'osd', 'allow rw', 'mds', 'allow rw'];
    const { key } = await ceph.makeUser('client.backup', capabilities);
    outside = path.join(ceph.directory, 'outside');
    await mkdir(outside);
    await execa('ceph-fuse', ['-c', ceph.confPath, '-n', 'client.admin', outside]);
    stack.defer(async () => {
      await execa('umount', [outside]);
    });
    const { client } = fixture.holdfast;
    for (const name of ['hung', 'gone', 'stale', 'full']) {
      await mkdir(path.join(outside, name));
      await client.call(
        client.repositories.addRepository.bind(client.repositories),
        AddRepositoryRequest.fromPartial({
          zone: 'z1',
          name,
          type: RepositoryType.REPOSITORY_TYPE_CEPH,
          address: `${ceph.monitors}:/${name}`,
          credentials: { username: 'backup', password: key, domain: '' },
        }),
      );
    }
  });
  after(() => stack.disposeAsync());
  afterEach(() => nothingLeft(fixture.lab, fixture.holdfast));

  const backup = async (
    repository: string,
    settings: Record<string, string> = {},
    onStart?: () => Promise<void>,
  ): Promise<Followed> => {
    const { guest, holdfast } = fixture;
    const { client } = holdfast;
    const { id } = await client.startBackup({ zone: 'z1', domain: guest.name, repository, settings });
    return client.follow(id, (event) => (isStart(event, Stage.STAGE_CONVERT) ? onStart?.() : undefined));
  };
  const requireGood = async (followed: Followed): Promise<void> => {
    const { guest, holdfast } = fixture;
    const { client, agent } = holdfast;
    const { backupId } = succeeded(followed);
    const directory = await holdfast.restoreDirectory();
    succeeded(await client.restoreBackup({ backupId, host: agent.hostName, directory }));
    const [file = ''] = (await readdir(directory)).filter((name) => name.includes('vda'));
    const [source] = guest.disks;
    assert.ok(source);
    await requireSameContent(source, { path: path.join(directory, file), format: 'qcow2' });
  };
  const requireNothingPartial = (repository: string): Promise<true> =>
    until('What was made is removed', 60_000, async () => {
      const left = await namesBelow(path.join(outside, repository));
      return left.some((name) => name.includes('.partial')) ? undefined : true;
    });
  const fuseOf = async (repository: string): Promise<number> => {
    const [mount] = (await processesNaming(`/${repository}`)).filter(({ argv }) =>
      argv[0]?.endsWith('ceph-fuse'),
    );
    assert.ok(mount, `${repository} is mounted`);
    return mount.pid;
  };

  it('the cluster hangs: the backup waits, others are taken meanwhile, and it goes on', async () => {
    const followed = await backup('hung', SLOWLY, async () => {
      ceph.pause();
      try {
        const { lab, holdfast } = fixture;
        const { name } = await lab.guest({ disks: [restingDisk(8)], start: false });
        succeeded(await holdfast.client.takeBackup({ zone: 'z1', domain: name, repository: 'nas-z1' }));
        await until('It is said to be stalled', 60_000, async () => {
          const { client } = fixture.holdfast;
          const { repositories } = await client.call(
            client.repositories.listRepositories.bind(client.repositories),
            { zone: 'z1' },
          );
          const hung = repositories.find(({ name }) => name === 'hung');
          return hung?.health.some(({ state }) => state === RepositoryState.REPOSITORY_STATE_STALLED)
            ? true
            : undefined;
        });
      } finally {
        ceph.resume();
      }
    });
    await requireGood(followed);
  });

  it('the mount is lost: the backup fails with that reason, and the next one works', async () => {
    const error = failed(
      await backup('gone', SLOWLY, async () => {
        process.kill(await fuseOf('gone'), 'SIGKILL');
      }),
    );
    assert.match(error.reason, /^REPOSITORY_/, error.message);
    await requireGood(await backup('gone'));
    await requireNothingPartial('gone');
  });

  it('its handles become stale: the backup fails with that reason, and the next one works', async () => {
    const error = failed(
      await backup('stale', SLOWLY, async () => {
        const sessions = JSON.parse(await ceph.ceph(['tell', 'mds.*', 'session', 'ls', '--format=json'])) as {
          readonly id: number;
          readonly client_metadata: { readonly root?: string };
        }[];
        const session = sessions.find(({ client_metadata: { root } }) => root === '/stale');
        assert.ok(session);
        // Blocked too, so that nothing that it holds is of any use.
        await ceph.ceph(['tell', 'mds.*', 'client', 'evict', `id=${session.id}`]);
      }),
    );
    assert.match(error.reason, /^REPOSITORY_/, error.message);
    await requireGood(await backup('stale'));
    await requireNothingPartial('stale');
  });

  it('its quota is used up: REPOSITORY_FULL, and nothing is left', async () => {
    await setQuota(path.join(outside, 'full'), 16 * MiB);
    const error = failed(await backup('full'));
    assert.equal(error.reason, 'REPOSITORY_FULL', error.message);
    await requireNothingPartial('full');
    await setQuota(path.join(outside, 'full'), 0);
    await requireGood(await backup('full'));
  });
});

/** Bytes; 0 for none. */
async function setQuota(directory: string, bytes: number): Promise<void> {
  const set = 'import os, sys; os.setxattr(sys.argv[1], "ceph.quota.max_bytes", sys.argv[2].encode())';
  await execa('python3', ['-c', set, directory, String(bytes)]);
}
