import assert from 'node:assert/strict';
import { VerifyBackupRequest } from '@holdfast/proto/holdfast/v1/backup.ts';
import { HoldfastError, toStatus } from '@holdfast/common/errors.ts';
import type { TakeBackupStart } from '@holdfast/proto/holdfast/agent/v1/agent.ts';
import { Stage, type OperationEvent } from '@holdfast/proto/holdfast/v1/event.ts';
import { OperationState } from '@holdfast/proto/holdfast/v1/operation.ts';
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
  watch,
  type Lab,
} from '../testing/lab.ts';
import { describeOnBothStores } from '../testing/stores.ts';

const { OPERATION_STATE_CANCELLING, OPERATION_STATE_RUNNING, OPERATION_STATE_SUCCEEDED } = OperationState;
const { OPERATION_STATE_FAILED, OPERATION_STATE_CANCELLED, OPERATION_STATE_PAUSED } = OperationState;
const { OPERATION_STATE_INTERRUPTED, OPERATION_STATE_VERIFYING } = OperationState;
const { STAGE_PREPARE, STAGE_BLOCKJOB, STAGE_CHECK } = Stage;

const cases = (events: readonly OperationEvent[]): string[] =>
  events.map((event) => event.event?.$case ?? '').filter((name) => name !== 'stageProgress');

describeOnBothStores('driving operations', function (kind) {
  this.timeout(TEST_DEADLINE_MS);
  let lab: Lab;
  let agent: FakeAgent;
  beforeEach(async () => {
    lab = await startLab(kind);
    agent = await lab.furnish();
  });
  afterEach(() => lab.close());

  it('is verifying while the images are checked, and keeps where it failed', async () => {
    const { id } = await takeBackup(lab);
    const job = await jobOf(agent, id);
    job.emit(
      happening.accepted(STAGE_BLOCKJOB, STAGE_CHECK),
      happening.stageStarted(STAGE_BLOCKJOB),
      happening.stageFinished(STAGE_BLOCKJOB),
      happening.stageStarted(STAGE_CHECK),
    );
    await reaches(lab, id, OPERATION_STATE_VERIFYING);
    job.emit({ $case: 'paused', value: {} });
    await reaches(lab, id, OPERATION_STATE_PAUSED);
    job.emit({ $case: 'resumed', value: {} });
    await reaches(lab, id, OPERATION_STATE_VERIFYING);
    const error = new HoldfastError('CHECK_FAILED', 'corrupt', { metadata: { disk: 'vdb' } });
    job.emit({ $case: 'failed', value: toStatus(error) });
    const failed = await reaches(lab, id, OPERATION_STATE_FAILED);
    assert.equal(failed.failedStage, STAGE_CHECK);
    assert.equal(failed.failedDisk, 'vdb');
    // And when the controller is asked years later.
    await lab.restartController();
    assert.equal((await getOperation(lab, id)).failedDisk, 'vdb');
  });

  it('runs again when the check is over', async () => {
    const { id } = await takeBackup(lab);
    (await jobOf(agent, id)).emit(
      happening.accepted(STAGE_CHECK),
      happening.stageStarted(STAGE_CHECK),
      happening.stageFinished(STAGE_CHECK),
    );
    const { state } = await eventually(async () => {
      const operation = await getOperation(lab, id);
      return operation.lastSequence === 3n ? operation : undefined;
    });
    assert.equal(state, OPERATION_STATE_RUNNING);
  });

  it('takes a backup to its end and into the catalogue', async () => {
    const { id, backupId } = await takeBackup(lab);
    const job = await jobOf(agent, id);
    const start = job.start as TakeBackupStart;
    assert.equal(start.header?.zone, 'z1');
    assert.equal(start.header.correlationId, 'test-1');
    assert.ok(start.header.fencingEpoch > 0n);
    assert.equal(start.domain, agent.domains[0]?.uuid);
    assert.equal(start.key, undefined);
    job.emit(
      happening.accepted(STAGE_PREPARE, STAGE_BLOCKJOB),
      happening.stageStarted(STAGE_PREPARE),
      happening.stageFinished(STAGE_PREPARE),
      happening.stageStarted(STAGE_BLOCKJOB),
      happening.progress(STAGE_BLOCKJOB, 7n),
    );
    const running = await eventually(async () => {
      const operation = await getOperation(lab, id);
      return operation.stages[1]?.figures?.processedBytes === 7n ? operation : undefined;
    });
    assert.equal(running.state, OPERATION_STATE_RUNNING);
    job.emit(happening.stageFinished(STAGE_BLOCKJOB), happening.backedUp(start));
    const done = await reaches(lab, id, OPERATION_STATE_SUCCEEDED);
    assert.deepEqual(
      done.stages.map((stage) => [stage.stage, stage.finished]),
      [
        [STAGE_PREPARE, true],
        [STAGE_BLOCKJOB, true],
      ],
    );
    assert.ok(done.endTime);
    const { backups } = lab.clients;
    const { backup } = await ask(backups.getBackup.bind(backups), { backupId });
    assert.equal(backup?.repository, 'r1');
    assert.equal(backup.storedBytes, 200n);
    assert.equal(backup.manifest?.backupId, backupId);
    await eventually(() => Promise.resolve(job.acknowledged === BigInt(job.events.length)));
  });

  it('attaches again after the stream breaks, and loses no event', async () => {
    const { id } = await takeBackup(lab);
    const job = await jobOf(agent, id);
    const seen = watch(lab, id);
    job.emit(happening.accepted(STAGE_PREPARE), happening.stageStarted(STAGE_PREPARE));
    await eventually(() => Promise.resolve(job.acknowledged === 2n));
    job.cut();
    // Happens while nobody is attached.
    job.emit(happening.stageFinished(STAGE_PREPARE), happening.stageStarted(STAGE_BLOCKJOB));
    await eventually(() => Promise.resolve(job.acknowledged === 4n));
    job.emit(happening.backedUp(job.start as TakeBackupStart));
    assert.equal(await seen.ended, undefined);
    assert.deepEqual(cases(seen.events), [
      'accepted',
      'stageStarted',
      'stageFinished',
      'stageStarted',
      'completed',
    ]);
    assert.deepEqual(
      seen.events.map((event) => event.sequence),
      [1n, 2n, 3n, 4n, 5n],
    );
  });

  it('waits for an agent that restarts, says that it does, and is INTERRUPTED only until then', async () => {
    const { id } = await takeBackup(lab);
    const job = await jobOf(agent, id);
    job.emit(happening.accepted(STAGE_PREPARE), { $case: 'paused', value: {} });
    await reaches(lab, id, OPERATION_STATE_PAUSED);
    await agent.stop();
    const { lastKnownState } = await reaches(lab, id, OPERATION_STATE_INTERRUPTED);
    assert.equal(lastKnownState, OPERATION_STATE_PAUSED);
    // The agent answers, and has nothing to tell.
    await agent.startAgain();
    const back = await reaches(lab, id, OPERATION_STATE_PAUSED);
    assert.equal(back.lastKnownState, OperationState.OPERATION_STATE_UNSPECIFIED);
    await agent.stop();
    await reaches(lab, id, OPERATION_STATE_INTERRUPTED);
    await eventually(async () => {
      const { warnings } = await getOperation(lab, id);
      return warnings.some((warning) => warning.reason === 'AGENT_UNREACHABLE');
    });
    job.emit(happening.backedUp(job.start as TakeBackupStart));
    await agent.startAgain();
    await reaches(lab, id, OPERATION_STATE_SUCCEEDED);
    const seen = watch(lab, id);
    await seen.ended;
    assert.deepEqual(cases(seen.events), [
      ...['accepted', 'paused', 'warning', 'interrupted', 'reattached'],
      ...['warning', 'interrupted', 'reattached', 'completed'],
    ]);
  });

  it('takes a job over although its agent knows a newer epoch than a state that was put back', async () => {
    const { id } = await takeBackup(lab);
    const job = await jobOf(agent, id);
    job.emit(happening.accepted(STAGE_PREPARE));
    await reaches(lab, id, OPERATION_STATE_RUNNING);
    agent.knownEpoch = 7n;
    job.cut();
    await eventually(() =>
      Promise.resolve(agent.attachments.some(({ fencingEpoch }) => fencingEpoch === 8n)),
    );
    job.emit(happening.backedUp(job.start as TakeBackupStart));
    await reaches(lab, id, OPERATION_STATE_SUCCEEDED);
  });

  it('takes running operations up again after a restart, under a larger epoch', async () => {
    const { id } = await takeBackup(lab);
    const job = await jobOf(agent, id);
    job.emit(happening.accepted(STAGE_PREPARE), happening.stageStarted(STAGE_PREPARE));
    await eventually(() => Promise.resolve(job.acknowledged === 2n));
    await lab.stopController();
    job.emit(happening.stageFinished(STAGE_PREPARE));
    await lab.restartController();
    await eventually(() => Promise.resolve(job.acknowledged === 3n));
    job.emit(happening.backedUp(job.start as TakeBackupStart));
    await reaches(lab, id, OPERATION_STATE_SUCCEEDED);
    const seen = watch(lab, id);
    await seen.ended;
    assert.deepEqual(cases(seen.events), ['accepted', 'stageStarted', 'stageFinished', 'completed']);
  });

  it('acknowledges after a restart the end that it had stored and the agent still keeps', async () => {
    agent.deaf = true;
    const { id } = await takeBackup(lab);
    const job = await jobOf(agent, id);
    job.emit(happening.accepted(STAGE_PREPARE), happening.backedUp(job.start as TakeBackupStart));
    await reaches(lab, id, OPERATION_STATE_SUCCEEDED);
    await lab.stopController();
    assert.equal(job.acknowledged, 0n);
    agent.deaf = false;
    await lab.restartController();
    await eventually(() => Promise.resolve(job.acknowledged === 2n));
  });

  it('fails when the agent refuses the start', async () => {
    agent.refusal = new HoldfastError('QUIESCE_FAILED', 'no guest agent in vm', {
      metadata: { domain: 'vm' },
    });
    const { id } = await takeBackup(lab);
    const { error } = await reaches(lab, id, OPERATION_STATE_FAILED);
    assert.equal(error?.message, 'no guest agent in vm');
  });

  it('fails when the job does, and enters no backup', async () => {
    agent.script = [happening.failed(new HoldfastError('REPOSITORY_FULL', 'r1 is full'))];
    const { id, backupId } = await takeBackup(lab);
    const { error } = await reaches(lab, id, OPERATION_STATE_FAILED);
    assert.equal(error?.message, 'r1 is full');
    const { backups } = lab.clients;
    await refused(ask(backups.getBackup.bind(backups), { backupId }), 'BACKUP_NOT_FOUND');
  });

  it('fails when the agent has forgotten a job that it had accepted', async () => {
    agent.script = [happening.accepted(STAGE_PREPARE)];
    const { id } = await takeBackup(lab);
    await reaches(lab, id, OPERATION_STATE_RUNNING);
    agent.forgetJobs();
    const { error } = await reaches(lab, id, OPERATION_STATE_FAILED);
    assert.match(error?.message ?? '', /does not know the job any more/);
  });

  it('passes bandwidth, pause and cancel on, and follows the events', async () => {
    agent.script = [happening.accepted(STAGE_PREPARE)];
    const { id } = await takeBackup(lab, { settings: { 'nas.backup.bandwidth.limit.mbps': '40' } });
    const job = await jobOf(agent, id);
    assert.equal((job.start as TakeBackupStart).options?.bandwidthLimitMibps, 40n);
    const running = await reaches(lab, id, OPERATION_STATE_RUNNING);
    assert.equal(running.bandwidthLimitMibps, 40n);
    const { operations } = lab.clients;
    const update = operations.updateOperation.bind(operations);
    await ask(update, { operationId: id, change: { $case: 'bandwidthLimitMibps', value: 0n } });
    await ask(update, { operationId: id, change: { $case: 'paused', value: true } });
    await eventually(() => Promise.resolve(job.commands.length === 2));
    job.emit({ $case: 'bandwidthApplied', value: { limitMibps: 0n } }, { $case: 'paused', value: {} });
    assert.equal((await reaches(lab, id, OPERATION_STATE_PAUSED)).bandwidthLimitMibps, 0n);
    await refused(
      ask(update, { operationId: id, change: { $case: 'bandwidthLimitMibps', value: -1n } }),
      'INVALID_REQUEST',
    );
    await refused(ask(update, { operationId: id, change: undefined }), 'INVALID_REQUEST');
    const cancel = operations.cancelOperation.bind(operations);
    await ask(cancel, { operationId: id });
    await ask(cancel, { operationId: id });
    await eventually(() => Promise.resolve(job.commands.some(({ $case }) => $case === 'cancel')));
    await refused(
      ask(update, { operationId: id, change: { $case: 'paused', value: false } }),
      'OPERATION_STATE',
    );
    job.emit({ $case: 'resumed', value: {} });
    await eventually(() => Promise.resolve(job.acknowledged === 4n));
    await reaches(lab, id, OPERATION_STATE_CANCELLING);
    job.emit(happening.failed(new HoldfastError('CANCELLED', 'cancelled')));
    await reaches(lab, id, OPERATION_STATE_CANCELLED);
    await ask(cancel, { operationId: id });
    await refused(
      ask(update, { operationId: id, change: { $case: 'paused', value: true } }),
      'OPERATION_STATE',
    );
  });

  it('keeps the wish to cancel until the agent is back', async () => {
    agent.script = [happening.accepted(STAGE_PREPARE)];
    const { id } = await takeBackup(lab);
    const job = await jobOf(agent, id);
    await reaches(lab, id, OPERATION_STATE_RUNNING);
    await agent.stop();
    const { operations } = lab.clients;
    const { operation } = await ask(operations.cancelOperation.bind(operations), { operationId: id });
    assert.equal(operation?.state, OPERATION_STATE_CANCELLING);
    // Why it is not over yet.
    await eventually(async () => {
      const { warnings, state } = await reaches(lab, id, OPERATION_STATE_CANCELLING);
      return (
        state === OPERATION_STATE_CANCELLING && warnings.some(({ reason }) => reason === 'AGENT_UNREACHABLE')
      );
    });
    await agent.startAgain();
    await eventually(() => Promise.resolve(job.commands.some(({ $case }) => $case === 'cancel')));
    job.emit(happening.failed(new HoldfastError('CANCELLED', 'cancelled')));
    await reaches(lab, id, OPERATION_STATE_CANCELLED);
  });

  it('cancels at once what no agent was told of', async () => {
    const second = await lab.startAgent('h2', 'z1');
    second.domains = [{ uuid: 'c8f0b1de-0000-4000-8000-000000000001', name: 'other', state: 'shut off' }];
    const { hosts, operations } = lab.clients;
    const path = second.address.kind === 'unix' ? second.address.path : '';
    await ask(hosts.addHost.bind(hosts), {
      ...{ zone: 'z1', name: 'h2', address: `unix://${path}`, labels: {} },
    });
    second.refusal = new HoldfastError('SHUTTING_DOWN', 'stopping');
    const { id } = await takeBackup(lab, { domain: 'other' });
    await second.stop();
    const { operation } = await ask(operations.cancelOperation.bind(operations), { operationId: id });
    // Whether the start had left is a race; either way it ends cancelled, and no job is made.
    if (operation?.state === OPERATION_STATE_CANCELLING) {
      second.refusal = undefined;
      await second.startAgain();
    }
    await reaches(lab, id, OPERATION_STATE_CANCELLED);
    assert.equal(second.jobs.size, 0);
  });

  it('notes what a verification found', async () => {
    const { id, backupId } = await takeBackup(lab);
    const job = await jobOf(agent, id);
    job.emit(happening.accepted(), happening.backedUp(job.start as TakeBackupStart));
    await reaches(lab, id, OPERATION_STATE_SUCCEEDED);
    const { backups } = lab.clients;
    const verify = async (): Promise<string> => {
      const request = VerifyBackupRequest.fromPartial({ backupId });
      const { operation } = await ask(backups.verifyBackup.bind(backups), request);
      return operation?.id ?? '';
    };
    agent.script = [happening.accepted(Stage.STAGE_CHECK), happening.verified()];
    await reaches(lab, await verify(), OPERATION_STATE_SUCCEEDED);
    const { backup: good } = await ask(backups.getBackup.bind(backups), { backupId });
    assert.equal(good?.lastVerification?.intact, true);
    assert.equal(good.lastVerification.level, 'metadata');
    agent.script = [
      happening.accepted(Stage.STAGE_CHECK),
      happening.failed(new HoldfastError('BACKUP_DAMAGED', 'vda is cut short')),
    ];
    await reaches(lab, await verify(), OPERATION_STATE_FAILED);
    const { backup: bad } = await ask(backups.getBackup.bind(backups), { backupId });
    assert.equal(bad?.lastVerification?.intact, false);
    assert.equal(bad.lastVerification.message, 'vda is cut short');
  });

  it('deletes a backup, but not while it is being verified', async () => {
    const { id, backupId } = await takeBackup(lab);
    const job = await jobOf(agent, id);
    job.emit(happening.accepted(), happening.backedUp(job.start as TakeBackupStart));
    await reaches(lab, id, OPERATION_STATE_SUCCEEDED);
    const { backups, repositories } = lab.clients;
    await refused(ask(repositories.removeRepository.bind(repositories), { name: 'r1' }), 'IN_USE');
    const request = VerifyBackupRequest.fromPartial({ backupId, host: 'h1' });
    const { operation: verification } = await ask(backups.verifyBackup.bind(backups), request);
    const remove = backups.deleteBackup.bind(backups);
    await refused(ask(remove, { backupId, requestId: '' }), 'IN_USE');
    (await jobOf(agent, verification?.id ?? '')).emit(happening.accepted(), happening.verified());
    await reaches(lab, verification?.id ?? '', OPERATION_STATE_SUCCEEDED);
    const { operation } = await ask(remove, { backupId, requestId: '' });
    const { result } = await reaches(lab, operation?.id ?? '', OPERATION_STATE_SUCCEEDED);
    assert.equal(result?.result?.$case === 'deletion' && result.result.value.freedBytes, 42n);
    assert.equal(agent.deletions[0]?.backupId, backupId);
    await refused(ask(backups.getBackup.bind(backups), { backupId }), 'BACKUP_NOT_FOUND');
    await ask(repositories.removeRepository.bind(repositories), { name: 'r1' });
  });
});
