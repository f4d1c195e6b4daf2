import assert from 'node:assert/strict';
import { grpcTarget } from '@holdfast/common/address.ts';
import { HoldfastError } from '@holdfast/common/errors.ts';
import { OperationState } from '@holdfast/proto/holdfast/v1/operation.ts';
import {
  AddRepositoryRequest,
  Repository,
  RepositoryType,
  type RepositoryCredentials,
} from '@holdfast/proto/holdfast/v1/repository.ts';
import { happening, type FakeAgent } from '../testing/fake-agent.ts';
import {
  TEST_DEADLINE_MS,
  ask,
  jobOf,
  reaches,
  refused,
  startLab,
  takeBackup,
  type Lab,
} from '../testing/lab.ts';
import { describeOnBothStores } from '../testing/stores.ts';

describeOnBothStores('hosts and repositories', function (kind) {
  this.timeout(TEST_DEADLINE_MS);
  let lab: Lab;
  let agent: FakeAgent;
  beforeEach(async () => {
    lab = await startLab(kind);
    agent = await lab.furnish();
    await ask(lab.clients.zones.createZone.bind(lab.clients.zones), { name: 'z2' });
  });
  afterEach(() => lab.close());

  const addHost = (zone: string, name: string, address: string) =>
    ask(lab.clients.hosts.addHost.bind(lab.clients.hosts), { zone, name, address, labels: {} });
  const addRepository = (zone: string, name: string, path: string) =>
    ask(
      lab.clients.repositories.addRepository.bind(lab.clients.repositories),
      AddRepositoryRequest.fromPartial({ zone, name, type: 1, path }),
    );

  it('asks an agent who it is, and refuses one of another zone', async () => {
    const stranger = await lab.startAgent('h9', 'z9');
    await refused(addHost('z2', '', grpcTarget(stranger.address)), 'ZONE_MISMATCH');
    await refused(addHost('z3', '', grpcTarget(stranger.address)), 'ZONE_NOT_FOUND');
    const { hosts } = lab.clients;
    const { host, toolVersions, domains } = await ask(hosts.getHost.bind(hosts), { name: 'h1' });
    assert.equal(host?.zone, 'z1');
    assert.deepEqual(toolVersions, { qemu: '7.2.22' });
    assert.deepEqual(
      domains.map((domain) => domain.name),
      ['vm'],
    );
  });

  it('refuses hosts that are known, silent, remote or badly named', async () => {
    await refused(addHost('z1', 'other', grpcTarget(agent.address)), 'HOST_EXISTS');
    await refused(addHost('z1', 'h2', 'unix:///nowhere/at/all.sock'), 'AGENT_UNREACHABLE');
    await refused(addHost('z1', 'h2', '10.0.0.1:7601'), 'INVALID_REQUEST');
    await refused(addHost('z1', 'h2', ''), 'INVALID_REQUEST');
    await refused(addHost('z1', 'h 2', grpcTarget(agent.address)), 'NAME_INVALID');
    const { hosts } = lab.clients;
    await refused(ask(hosts.getHost.bind(hosts), { name: 'h2' }), 'HOST_NOT_FOUND');
    await agent.stop();
    await refused(ask(hosts.getHost.bind(hosts), { name: 'h1' }), 'AGENT_UNREACHABLE');
  });

  it('reaches an agent that is back, however long it was away', async () => {
    const { hosts } = lab.clients;
    const look = () => ask(hosts.getHost.bind(hosts), { name: 'h1' });
    await agent.stop();
    const awayUntilMs = performance.now() + 2_000;
    // Each try that fails makes the pause before the next one longer.
    while (performance.now() < awayUntilMs) await refused(look(), 'AGENT_UNREACHABLE');
    await agent.startAgain();
    assert.equal((await look()).host?.name, 'h1');
  });

  it('tells the agent what to mount, keeps the id that it found, and shows no password', async () => {
    const { repositories } = lab.clients;
    const password = 'correct horse, "battery"';
    const credentials = { username: 'backup', password, domain: 'WORK' };
    const request = AddRepositoryRequest.fromPartial({
      zone: 'z1',
      name: 'share',
      type: RepositoryType.REPOSITORY_TYPE_CIFS,
      address: '\\\\nas\\my share\\',
      mountOptions: ['seal'],
      credentials,
    });
    const { repository } = await ask(repositories.addRepository.bind(repositories), request);
    const expected = { type: 3, path: '', address: '//nas/my share', mountOptions: ['seal'] };
    assert.deepEqual(agent.prepared.at(-1)?.repository, {
      ...expected,
      name: 'share',
      repositoryId: '',
      credentials,
    });
    assert.equal(repository?.repositoryId, agent.repositoryId);
    const { repositories: listed } = await ask(repositories.listRepositories.bind(repositories), {
      zone: 'z1',
    });
    assert.ok(!JSON.stringify(listed).includes('horse'));
    assert.ok(!(await lab.state.dump()).includes(password));
    await lab.restartController();
    const { id } = await takeBackup(lab, { repository: 'share' });
    const { start } = await jobOf(agent, id);
    assert.deepEqual('repository' in start && start.repository, {
      ...expected,
      name: 'share',
      repositoryId: agent.repositoryId,
      credentials,
    });
  });

  it('has a host prove other credentials before they are used', async () => {
    const { repositories } = lab.clients;
    const first = { username: 'backup', password: 'correct horse', domain: 'WORK' };
    const request = AddRepositoryRequest.fromPartial({
      zone: 'z1',
      name: 'share',
      type: RepositoryType.REPOSITORY_TYPE_CIFS,
      address: '//nas/share',
      credentials: first,
    });
    await ask(repositories.addRepository.bind(repositories), request);
    const set = (credentials: RepositoryCredentials | undefined, name = 'share') =>
      ask(repositories.setRepositoryCredentials.bind(repositories), { name, credentials });
    const used = async (): Promise<RepositoryCredentials | undefined> => {
      const { id } = await takeBackup(lab, { repository: 'share' });
      const job = await jobOf(agent, id);
      job.emit(happening.failed(new HoldfastError('NO_DISKS', 'no disks')));
      await reaches(lab, id, OperationState.OPERATION_STATE_FAILED);
      return 'repository' in job.start ? job.start.repository?.credentials : undefined;
    };
    const second = { username: 'backup-2', password: 'battery staple', domain: '' };
    agent.repositoryProblem = new HoldfastError('MOUNT_FAILED', 'wrong password');
    await refused(set(second), 'MOUNT_FAILED');
    agent.repositoryProblem = undefined;
    assert.deepEqual(await used(), first);
    const { repository } = await set(second);
    assert.ok(
      !JSON.stringify(Repository.toJSON(repository ?? Repository.fromPartial({}))).includes('staple'),
    );
    const proved = agent.prepared.at(-1)?.repository;
    assert.deepEqual([proved?.credentials, proved?.repositoryId], [second, agent.repositoryId]);
    assert.deepEqual(await used(), second);
    assert.ok(!(await lab.state.dump()).includes(second.password));

    const asked = agent.prepared.length;
    await refused(set(undefined), 'INVALID_REQUEST');
    await refused(set({ ...second, username: 'a,b' }), 'INVALID_REQUEST');
    await refused(set(second, 'r1'), 'INVALID_REQUEST');
    await refused(set(second, 'nowhere'), 'REPOSITORY_NOT_FOUND');
    assert.equal(agent.prepared.length, asked);
  });

  it('refuses what cannot be mounted before any agent is asked', async () => {
    const { repositories } = lab.clients;
    const asked = agent.prepared.length;
    for (const bad of [
      { type: RepositoryType.REPOSITORY_TYPE_NFS, address: 'nas:/a/../b' },
      { type: RepositoryType.REPOSITORY_TYPE_NFS, address: 'nas:/a', mountOptions: ['exec'] },
      { type: RepositoryType.REPOSITORY_TYPE_CEPH, address: 'mon:/a' },
      { type: RepositoryType.REPOSITORY_TYPE_LOCAL, path: '/a', address: 'nas:/a' },
      { type: 99 as RepositoryType, path: '/a' },
    ]) {
      const request = AddRepositoryRequest.fromPartial({ zone: 'z1', name: 'bad', ...bad });
      await refused(ask(repositories.addRepository.bind(repositories), request), 'INVALID_REQUEST');
    }
    assert.equal(agent.prepared.length, asked);
  });

  it('keeps a host while an operation works on it', async () => {
    const { id } = await takeBackup(lab);
    const { hosts } = lab.clients;
    await refused(ask(hosts.removeHost.bind(hosts), { name: 'h1' }), 'IN_USE');
    (await jobOf(agent, id)).emit(happening.failed(new HoldfastError('NO_DISKS', 'no disks')));
    await assert.doesNotReject(async () => {
      while ((await ask(hosts.listHosts.bind(hosts), { zone: 'z1', labels: [] })).hosts.length > 0) {
        await ask(hosts.removeHost.bind(hosts), { name: 'h1' }).catch((error: unknown) => {
          assert.equal((error as HoldfastError).reason, 'IN_USE');
        });
      }
    });
  });

  it('has a host prove a repository before it is added', async () => {
    agent.repositoryProblem = new HoldfastError('REPOSITORY_UNUSABLE', '/srv/r2 is not there');
    await refused(addRepository('z1', 'r2', '/srv/r2'), 'REPOSITORY_UNUSABLE');
    agent.repositoryProblem = undefined;
    const { repository } = await addRepository('z1', 'r2', '/srv//x/../r2/');
    assert.equal(repository?.path, '/srv/r2');
    await refused(addRepository('z1', 'r2', '/srv/r2'), 'REPOSITORY_EXISTS');
    const { repositories } = lab.clients;
    const stats = await ask(repositories.getRepository.bind(repositories), { name: 'r2' });
    assert.deepEqual([stats.sizeBytes, stats.freeBytes], [1_000n, 400n]);
    const { repositories: known } = await ask(repositories.listRepositories.bind(repositories), {
      zone: 'z1',
    });
    assert.deepEqual(
      known.map((each) => each.name),
      ['r1', 'r2'],
    );
  });

  it('refuses repositories that cannot be', async () => {
    const error = await refused(addRepository('z2', 'r3', '/srv/r3'), 'HOST_NOT_FOUND');
    assert.match(error.message, /Add a host first/);
    await refused(addRepository('z1', 'r3', 'srv/r3'), 'INVALID_REQUEST');
    await refused(addRepository('z1', 'r3', '/srv/\0'), 'INVALID_REQUEST');
    await refused(addRepository('z1', '../r3', '/srv/r3'), 'NAME_INVALID');
    const { repositories } = lab.clients;
    await refused(ask(repositories.getRepository.bind(repositories), { name: 'r3' }), 'REPOSITORY_NOT_FOUND');
  });
});
