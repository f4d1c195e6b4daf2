import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { connectTo } from '@holdfast/common/client.ts';
import { fromStatus, HoldfastError } from '@holdfast/common/errors.ts';
import type { TakeBackupStart } from '@holdfast/proto/holdfast/agent/v1/agent.ts';
import {
  Leftover,
  LeftoverKind,
  LeftoverState,
  LeftoverServiceClient,
  ListLeftoversRequest,
} from '@holdfast/proto/holdfast/v1/leftover.ts';
import { OperationState } from '@holdfast/proto/holdfast/v1/operation.ts';
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
  addHost,
} from '../testing/lab.ts';

const { LEFTOVER_STATE_REMOVABLE, LEFTOVER_STATE_KEPT, LEFTOVER_STATE_REMOVED } = LeftoverState;
const { LEFTOVER_STATE_UNDECIDED } = LeftoverState;
const DAY_MS = 86_400_000;

describe('leftovers', function () {
  this.timeout(TEST_DEADLINE_MS);
  let lab: Lab;
  let agent: FakeAgent;
  let client: LeftoverServiceClient;
  let nowMs: number;
  beforeEach(async () => {
    nowMs = Date.now();
    lab = await startLab('sqlite', { now: () => new Date(nowMs) });
    agent = await lab.furnish();
    client = connectTo(LeftoverServiceClient, lab.address);
  });
  afterEach(async () => {
    client.close();
    await lab.close();
  });

  const list = (scope: Partial<ListLeftoversRequest> = {}) =>
    ask(client.listLeftovers.bind(client), ListLeftoversRequest.fromPartial(scope));
  const remove = (scope: Partial<ListLeftoversRequest> = {}) =>
    ask(client.removeLeftovers.bind(client), ListLeftoversRequest.fromPartial(scope));
  const partial = (backupId: string, name = `d/20260101T000000Z-${backupId}.partial`): Leftover =>
    Leftover.fromPartial({
      kind: LeftoverKind.LEFTOVER_KIND_PARTIAL_BACKUP,
      repository: 'r1',
      ...{ name, backupId, state: LEFTOVER_STATE_UNDECIDED, changeTime: new Date(nowMs) },
    });
  const states = async (): Promise<(LeftoverState | undefined)[]> =>
    (await list()).leftovers.map(({ state }) => state);
  const failBackup = async (): Promise<{ id: string; backupId: string }> => {
    const operation = await takeBackup(lab);
    (await jobOf(agent, operation.id)).emit(happening.failed(new HoldfastError('QEMU_FAILED', 'died')));
    return await reaches(lab, operation.id, OperationState.OPERATION_STATE_FAILED);
  };

  it('of ended operations are removed; of running and unknown ones they are kept', async () => {
    const ended = await failBackup();
    const running = await takeBackup(lab);
    await jobOf(agent, running.id);
    agent.leftovers = [partial(ended.backupId), partial(running.backupId), partial(randomUUID())];
    const { leftovers } = await list();
    assert.deepEqual(
      leftovers.map(({ state }) => state),
      [LEFTOVER_STATE_REMOVABLE, LEFTOVER_STATE_KEPT, LEFTOVER_STATE_KEPT],
    );
    assert.equal(leftovers[0]?.jobId, ended.id);
    assert.match(leftovers[1]?.reason ?? '', new RegExp(running.id));
    assert.equal(agent.leftovers.length, 3);
    const removed = await remove();
    assert.deepEqual(
      removed.leftovers.map(({ state }) => state),
      [LEFTOVER_STATE_REMOVED, LEFTOVER_STATE_KEPT, LEFTOVER_STATE_KEPT],
    );
    assert.deepEqual(
      agent.leftovers.map(({ backupId }) => backupId),
      leftovers.slice(1).map(({ backupId }) => backupId),
    );
  });

  it('are kept while their host has a process for them, or does not answer', async () => {
    const ended = await failBackup();
    const other = await lab.startAgent('h2', 'z1');
    await addHost(lab, other);
    other.leftovers = agent.leftovers = [partial(ended.backupId)];
    agent.busyJobIds = [ended.id];
    assert.deepEqual(await states(), [LEFTOVER_STATE_KEPT]);
    agent.busyJobIds = [];
    assert.deepEqual(await states(), [LEFTOVER_STATE_REMOVABLE]);
    await agent.stop();
    const { leftovers, problems } = await list();
    assert.deepEqual(
      leftovers.map(({ state }) => state),
      [LEFTOVER_STATE_KEPT],
    );
    assert.match(leftovers[0]?.reason ?? '', /h1.* does not answer/);
    assert.equal(problems[0]?.host, 'h1');
    assert.equal(problems[0].error && fromStatus(problems[0].error).reason, 'AGENT_UNREACHABLE');
    await remove();
    assert.equal(other.leftovers.length, 1);
  });

  it('of a host that is known no more are removed when they were untouched for a day', async () => {
    const ended = await failBackup();
    const other = await lab.startAgent('h2', 'z1');
    const { hosts } = lab.clients;
    await addHost(lab, other);
    await ask(hosts.removeHost.bind(hosts), { name: 'h1' });
    other.leftovers = [partial(ended.backupId)];
    assert.deepEqual(await states(), [LEFTOVER_STATE_KEPT]);
    nowMs += DAY_MS + 1;
    assert.deepEqual(await states(), [LEFTOVER_STATE_REMOVABLE]);
  });

  it('are no deleted backup that the catalogue still has', async () => {
    const operation = await takeBackup(lab);
    const job = await jobOf(agent, operation.id);
    job.emit(happening.backedUp(job.start as TakeBackupStart));
    await reaches(lab, operation.id, OperationState.OPERATION_STATE_SUCCEEDED);
    agent.leftovers = [partial(operation.backupId)];
    const { leftovers } = await list();
    assert.equal(leftovers[0]?.state, LEFTOVER_STATE_KEPT);
    assert.match(leftovers[0].reason, /holdfast delete/);
  });

  it('on hosts are what their agents say, under the names that hosts have here', async () => {
    const ended = await failBackup();
    const onHost = (jobId: string, state: LeftoverState): Leftover =>
      Leftover.fromPartial({
        kind: LeftoverKind.LEFTOVER_KIND_RBD_SNAPSHOT,
        ...{ host: 'a.example', name: `p/i@holdfast-${jobId}`, jobId, state },
      });
    agent.leftovers = [
      onHost(ended.id, LEFTOVER_STATE_UNDECIDED),
      onHost(randomUUID(), LEFTOVER_STATE_UNDECIDED),
      onHost(randomUUID(), LEFTOVER_STATE_REMOVABLE),
    ];
    const { leftovers } = await list({ host: 'h1' });
    assert.deepEqual(
      leftovers.map(({ host, state }) => [host, state]),
      [
        ['h1', LEFTOVER_STATE_REMOVABLE],
        ['h1', LEFTOVER_STATE_KEPT],
        ['h1', LEFTOVER_STATE_REMOVABLE],
      ],
    );
    assert.deepEqual((await list({ repository: 'r1' })).leftovers, []);
    await remove({ host: 'h1' });
    assert.equal(agent.leftovers.length, 1);
  });

  it('of a repository that stalls are a problem, and hold up no others', async () => {
    agent.repositoryProblem = new HoldfastError('REPOSITORY_STALLED', 'r1 does not answer');
    agent.leftovers = [Leftover.fromPartial({ name: 'x', state: LEFTOVER_STATE_REMOVABLE })];
    for (const answer of [await list(), await remove()]) {
      assert.equal(answer.leftovers.length, 1);
      assert.deepEqual(
        answer.problems.map(({ repository, error }) => [repository, error && fromStatus(error).reason]),
        [['r1', 'REPOSITORY_STALLED']],
      );
    }
  });

  it('are not looked for where there is nothing', async () => {
    await refused(list({ host: 'h9' }), 'HOST_NOT_FOUND');
    await refused(list({ repository: 'r9' }), 'REPOSITORY_NOT_FOUND');
    await refused(list({ zone: 'z9' }), 'ZONE_NOT_FOUND');
    const { zones } = lab.clients;
    await ask(zones.createZone.bind(zones), { name: 'z2' });
    await refused(remove({ zone: 'z2', host: 'h1' }), 'ZONE_MISMATCH');
    assert.deepEqual((await list({ zone: 'z2' })).leftovers, []);
  });
});
