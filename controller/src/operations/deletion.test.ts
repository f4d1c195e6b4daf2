import assert from 'node:assert/strict';
import { HoldfastError } from '@holdfast/common/errors.ts';
import type { TakeBackupStart } from '@holdfast/proto/holdfast/agent/v1/agent.ts';
import { OperationState, type Operation } from '@holdfast/proto/holdfast/v1/operation.ts';
import { RepositoryState } from '@holdfast/proto/holdfast/v1/repository.ts';
import { happening, type FakeAgent } from '../testing/fake-agent.ts';
import {
  TEST_DEADLINE_MS,
  ask,
  eventually,
  getOperation,
  jobOf,
  reaches,
  refused,
  startLab,
  takeBackup,
  type Lab,
} from '../testing/lab.ts';
import { describeOnBothStores } from '../testing/stores.ts';

const { OPERATION_STATE_CANCELLED, OPERATION_STATE_CANCELLING, OPERATION_STATE_INTERRUPTED } = OperationState;
const { OPERATION_STATE_SUCCEEDED } = OperationState;

describeOnBothStores('a deletion', function (kind) {
  this.timeout(TEST_DEADLINE_MS);
  let lab: Lab;
  let agent: FakeAgent;
  let backupId: string;
  beforeEach(async () => {
    lab = await startLab(kind);
    agent = await lab.furnish();
    const operation = await takeBackup(lab);
    ({ backupId } = operation);
    const job = await jobOf(agent, operation.id);
    job.emit(happening.accepted(), happening.backedUp(job.start as TakeBackupStart));
    await reaches(lab, operation.id, OPERATION_STATE_SUCCEEDED);
    agent.holdDeletions = true;
  });
  afterEach(() => lab.close());

  /** Asks for it, and waits until the agent is at it. */
  const begin = async (): Promise<string> => {
    const { backups } = lab.clients;
    const { operation } = await ask(backups.deleteBackup.bind(backups), { backupId, requestId: '' });
    await eventually(() => Promise.resolve(agent.deletions.length === 1));
    return operation?.id ?? '';
  };
  const cancel = async (operationId: string): Promise<Operation | undefined> => {
    const { operations } = lab.clients;
    return (await ask(operations.cancelOperation.bind(operations), { operationId })).operation;
  };
  const isListed = async (): Promise<boolean> => {
    const { backups } = lab.clients;
    const request = { zone: 'z1', domain: '', pageSize: 0, pageToken: '', damaged: false };
    const { backups: listed } = await ask(backups.listBackups.bind(backups), request);
    return listed.some(({ id }) => id === backupId);
  };

  it('is cancelled while its agent has touched nothing, and the backup stays', async () => {
    const id = await begin();
    await Promise.all([cancel(id), cancel(id)]);
    await reaches(lab, id, OPERATION_STATE_CANCELLED);
    assert.equal((await cancel(id))?.state, OPERATION_STATE_CANCELLED);
    assert.equal(agent.deletions.length, 1);
    assert.ok(await isListed());
  });

  it('is not cancelled any more when it has come to its point of no return, and ends well', async () => {
    const id = await begin();
    agent.deletionsBegun = true;
    const { message } = await refused(cancel(id), 'OPERATION_STATE');
    assert.match(message, /cannot be cancelled any more.*delete the backup again/);
    agent.endDeletions();
    await reaches(lab, id, OPERATION_STATE_SUCCEEDED);
    assert.ok(!(await isListed()));
  });

  it('goes on when its agent is back', async () => {
    const id = await begin();
    await agent.stop();
    const { warnings } = await reaches(lab, id, OPERATION_STATE_INTERRUPTED);
    assert.deepEqual(
      warnings.map(({ reason }) => reason),
      ['AGENT_UNREACHABLE'],
    );
    agent.holdDeletions = false;
    await agent.startAgain();
    await reaches(lab, id, OPERATION_STATE_SUCCEEDED);
    assert.ok(!(await isListed()));
  });

  it('is seen to wait for a repository that does not answer, and no longer once it answers', async () => {
    const id = await begin();
    agent.repositoryProblem = new HoldfastError('REPOSITORY_STALLED', 'The NAS hangs.');
    const isStalled = (wanted: boolean) =>
      eventually(async () => ((await getOperation(lab, id)).stalledSince !== undefined) === wanted);
    await isStalled(true);
    const { repositories } = lab.clients;
    const listed = await ask(repositories.listRepositories.bind(repositories), { zone: 'z1' });
    assert.deepEqual(
      listed.repositories.flatMap(({ health }) => health.map(({ state }) => state)),
      [RepositoryState.REPOSITORY_STATE_STALLED],
    );
    agent.repositoryProblem = undefined;
    await isStalled(false);
    agent.endDeletions();
    await reaches(lab, id, OPERATION_STATE_SUCCEEDED);
  });

  it('is cancelled while its agent is away, and nothing is deleted when that is back', async () => {
    const id = await begin();
    await agent.stop();
    assert.equal((await cancel(id))?.state, OPERATION_STATE_CANCELLING);
    await eventually(async () =>
      (await getOperation(lab, id)).warnings.some(({ reason }) => reason === 'AGENT_UNREACHABLE'),
    );
    await agent.startAgain();
    await reaches(lab, id, OPERATION_STATE_CANCELLED);
    assert.equal(agent.deletions.at(-1)?.onlyBegun, true);
    assert.ok(await isListed());
  });

  it('is finished when it is cancelled while its agent is away, but had come to its point of no return', async () => {
    const id = await begin();
    await agent.stop();
    await cancel(id);
    agent.deletionsBegun = true;
    agent.holdDeletions = false;
    await agent.startAgain();
    await reaches(lab, id, OPERATION_STATE_SUCCEEDED);
    assert.ok(!(await isListed()));
  });
});
