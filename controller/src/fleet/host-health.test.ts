import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { HostState, type Host } from '@holdfast/proto/holdfast/v1/host.ts';
import type { FakeAgent } from '../testing/fake-agent.ts';
import { startFakeAgent } from '../testing/fake-agent.ts';
import {
  TEST_DEADLINE_MS,
  ask,
  eventually,
  getOperation,
  jobOf,
  refused,
  startLab,
  takeBackup,
  type Lab,
  addHost,
} from '../testing/lab.ts';
import { describeOnBothStores } from '../testing/stores.ts';

describeOnBothStores('hosts at work', function (kind) {
  this.timeout(TEST_DEADLINE_MS);
  let lab: Lab;
  let first: FakeAgent;
  let second: FakeAgent;
  beforeEach(async () => {
    lab = await startLab(kind, { heartbeatMs: 50 });
    first = await lab.furnish();
    second = await lab.startAgent('h2', 'z1');
    await addHost(lab, second, 'h2', { role: 'backup', rack: '7' });
  });
  afterEach(() => lab.close());

  const list = async (...labels: string[]): Promise<readonly Host[]> => {
    const { hosts } = lab.clients;
    return (await ask(hosts.listHosts.bind(hosts), { zone: 'z1', labels })).hosts;
  };
  const reachesState = (name: string, state: HostState): Promise<Host> =>
    eventually(async () => (await list()).find((host) => host.name === name && host.state === state));
  const drain = (name: string) => {
    const { hosts } = lab.clients;
    return ask(hosts.drainHost.bind(hosts), { name });
  };

  it('are up with what they can do, go down, and come back', async () => {
    const up = await reachesState('h1', HostState.HOST_STATE_UP);
    assert.deepEqual(up.capabilities, {
      toolVersions: { qemu: '7.2.22' },
      features: ['push', 'repository.nfs'],
    });
    assert.ok(up.lastSeenTime);
    await first.stop();
    const down = await reachesState('h1', HostState.HOST_STATE_DOWN);
    assert.match(down.stateMessage, /h1/);
    assert.ok(down.lastSeenTime);
    // What the one that is up can do is not hindered.
    assert.equal((await reachesState('h2', HostState.HOST_STATE_UP)).stateMessage, '');
    first.features = ['push'];
    await first.startAgain();
    const back = await reachesState('h1', HostState.HOST_STATE_UP);
    assert.deepEqual(back.capabilities?.features, ['push']);
    assert.equal(back.stateMessage, '');
  });

  it('are down when an agent of another zone has taken their place', async () => {
    await reachesState('h2', HostState.HOST_STATE_UP);
    await second.stop();
    await reachesState('h2', HostState.HOST_STATE_DOWN);
    const stranger = await startFakeAgent({ name: 'h2', zone: 'z9', address: second.address });
    try {
      await eventually(async () => (await list()).some(({ stateMessage }) => stateMessage.includes('"z9"')));
    } finally {
      await stranger.stop();
    }
  });

  it('have labels, by which they are found', async () => {
    const { hosts } = lab.clients;
    const set = hosts.setHostLabels.bind(hosts);
    const names = async (...labels: string[]) => (await list(...labels)).map(({ name }) => name);
    assert.deepEqual(await names('role=backup', 'rack'), ['h2']);
    assert.deepEqual(await names('role=other'), []);
    const { host } = await ask(set, { name: 'h1', labels: { role: 'other', 'a/b': '' }, remove: ['rack'] });
    assert.deepEqual(host?.labels, { role: 'other', 'a/b': '' });
    await ask(set, { name: 'h2', labels: {}, remove: ['rack', 'nothing'] });
    await lab.restartController();
    assert.deepEqual(await names('role'), ['h1', 'h2']);
    assert.deepEqual(await names('rack'), []);
    for (const bad of [
      { labels: { 'no space': '' } },
      { labels: { '': '' } },
      { labels: { key: 'a\nb' } },
      { labels: { key: 'x'.repeat(256) } },
      { labels: { key: '' }, remove: ['key'] },
      { labels: Object.fromEntries(Array.from({ length: 65 }, (_, index) => [`l${index}`, ''])) },
    ]) {
      await refused(ask(set, { name: 'h1', remove: [], ...bad }), 'INVALID_REQUEST');
    }
    await refused(ask(set, { name: 'h9', labels: {}, remove: [] }), 'HOST_NOT_FOUND');
  });

  it('take no new work when they are drained, and say so', async () => {
    const { host } = await drain('h1');
    assert.equal(host?.drained, true);
    const error = await refused(takeBackup(lab), 'HOST_DRAINED');
    assert.match(error.message, /"vm" is on host h1, which is drained/);
    await lab.restartController();
    assert.deepEqual(
      (await list()).map(({ drained }) => drained),
      [true, false],
    );
    const { hosts } = lab.clients;
    await ask(hosts.undrainHost.bind(hosts), { name: 'h1' });
    const { id } = await takeBackup(lab);
    await jobOf(first, id);
    assert.equal((await getOperation(lab, id)).hostReason, 'The domain runs on h1.');
    assert.deepEqual(
      (await list()).map((each) => each.runningOperations),
      [1, 0],
    );
  });

  it('that see the same disks of a domain that is shut off take it in turn, and the reason is told', async () => {
    const disk = {
      target: 'vda',
      source: '/nfs/web.qcow2',
      format: 'qcow2',
      device: 'disk',
      sourceState: '7:9:1.5',
    };
    const cdrom = { ...disk, target: 'sda', device: 'cdrom', sourceState: '' };
    const web = { uuid: randomUUID(), name: 'web', state: 'shut off', disks: [disk, cdrom] };
    first.domains = [web];
    second.domains = [web];
    const { id } = await takeBackup(lab, { domain: 'web' });
    await jobOf(first, id);
    assert.equal(
      (await getOperation(lab, id)).hostReason,
      'The domain is shut off and known to h1, h2. Of 2 least busy hosts, with 0 operations, the first by name.',
    );
    const db = { ...web, uuid: randomUUID(), name: 'db' };
    first.domains = [db];
    second.domains = [db];
    const { id: next } = await takeBackup(lab, { domain: 'db' });
    await jobOf(second, next);
    assert.equal(
      (await getOperation(lab, next)).hostReason,
      'The domain is shut off and known to h1, h2. The least busy of 2 hosts that fit, with 0 operations.',
    );
    const seen = [
      { sourceState: '7:9:1.6' },
      { sourceState: '' },
      { source: '/local/web.qcow2' },
      { target: 'vdb' },
    ];
    for (const other of seen) {
      const uuid = randomUUID();
      first.domains = [{ ...web, uuid, name: 'new' }];
      second.domains = [{ ...web, uuid, name: 'new', disks: [{ ...disk, ...other }] }];
      await refused(takeBackup(lab, { domain: 'new' }), 'INVALID_REQUEST');
    }
  });

  it('are asked for a domain that several know: it is where it runs', async () => {
    const uuid = randomUUID();
    first.domains = [{ uuid, name: 'web', state: 'shut off' }];
    second.domains = [{ uuid, name: 'web', state: 'running' }];
    const { id } = await takeBackup(lab, { domain: 'web' });
    await jobOf(second, id);
    assert.equal((await getOperation(lab, id)).hostReason, 'The domain runs on h2. It is shut off on h1.');
  });

  it('are not chosen among when a domain is shut off on several that need not see the same disks, or active on several', async () => {
    const uuid = randomUUID();
    first.domains = [{ uuid, name: 'web', state: 'shut off' }];
    second.domains = [{ uuid, name: 'web', state: 'shut off' }];
    assert.match(
      (await refused(takeBackup(lab, { domain: uuid }), 'INVALID_REQUEST')).message,
      /Name the host/,
    );
    const { id } = await takeBackup(lab, { domain: uuid, host: 'h2' });
    await jobOf(second, id);
    first.domains = [{ uuid: randomUUID(), name: 'db', state: 'running' }];
    second.domains = [{ uuid: randomUUID(), name: 'db', state: 'shut off' }];
    await refused(takeBackup(lab, { domain: 'db' }), 'INVALID_REQUEST');
    const moving = randomUUID();
    first.domains = [{ uuid: moving, name: 'db', state: 'running' }];
    second.domains = [{ uuid: moving, name: 'db', state: 'paused' }];
    await refused(takeBackup(lab, { domain: 'db' }), 'DOMAIN_STATE');
  });
});
