import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { status, type ServiceError } from '@grpc/grpc-js';
import { sql } from 'kysely';
import { HoldfastError, toStatus } from '@holdfast/common/errors.ts';
import type { TakeBackupStart } from '@holdfast/proto/holdfast/agent/v1/agent.ts';
import { Stage } from '@holdfast/proto/holdfast/v1/event.ts';
import {
  ListOperationsRequest,
  OperationState,
  type WatchOperationResponse,
} from '@holdfast/proto/holdfast/v1/operation.ts';
import { finishBackup, happening, type FakeAgent } from '../testing/fake-agent.ts';
import { COLUMN_TYPES, operationFilters } from '../store/migrations.ts';
import { openStore } from '../store/store.ts';
import {
  MASTER_KEY,
  TEST_DEADLINE_MS,
  ask,
  eventually,
  jobOf,
  reaches,
  refused,
  startLab,
  takeBackup,
  watch,
  type Lab,
} from '../testing/lab.ts';
import { describeOnBothStores } from '../testing/stores.ts';

const { STAGE_PREPARE, STAGE_BLOCKJOB, STAGE_CONVERT } = Stage;

describeOnBothStores('watching operations', function (kind) {
  this.timeout(TEST_DEADLINE_MS);
  let lab: Lab;
  let agent: FakeAgent;
  beforeEach(async () => {
    lab = await startLab(kind);
    agent = await lab.furnish();
  });
  afterEach(() => lab.close());

  it('replays, shows the latest progress, goes on live and ends', async () => {
    const { id } = await takeBackup(lab);
    const job = await jobOf(agent, id);
    job.emit(
      happening.accepted(STAGE_BLOCKJOB),
      happening.stageStarted(STAGE_BLOCKJOB),
      happening.progress(STAGE_BLOCKJOB, 1n),
      happening.progress(STAGE_BLOCKJOB, 2n),
    );
    const early = watch(lab, id);
    await eventually(() => Promise.resolve(early.events.some((event) => progressOf(event) === 2n)));
    const late = watch(lab, id, 1n);
    await eventually(() => Promise.resolve(late.events.length === 2));
    assert.deepEqual(
      late.events.map((event) => event.event?.$case),
      ['stageStarted', 'stageProgress'],
    );
    assert.equal(late.events[1] && progressOf(late.events[1]), 2n);
    // Progress has the number of the event before it: to resume after it misses nothing.
    assert.equal(late.events[1]?.sequence, 2n);
    finishBackup(job);
    assert.equal(await early.ended, undefined);
    assert.equal(await late.ended, undefined);
    assert.equal(late.events.at(-1)?.event?.$case, 'completed');
    const after = watch(lab, id, 3n);
    assert.equal(await after.ended, undefined);
    assert.deepEqual(
      after.events.map((event) => event.event?.$case),
      ['completed'],
    );
    const beyond = watch(lab, id, 99n);
    assert.equal(await beyond.ended, undefined);
    assert.deepEqual(beyond.events, []);
  });

  it('shows progress in the order of time', async () => {
    const { id } = await takeBackup(lab);
    const job = await jobOf(agent, id);
    job.emit(happening.accepted(STAGE_BLOCKJOB, STAGE_CONVERT), happening.progress(STAGE_BLOCKJOB, 1n));
    job.emit(happening.progress(STAGE_CONVERT, 1n), happening.progress(STAGE_BLOCKJOB, 2n));
    const early = watch(lab, id);
    await eventually(() => Promise.resolve(early.events.some((event) => progressOf(event) === 2n)));
    const late = watch(lab, id, 1n);
    await eventually(() => Promise.resolve(late.events.length === 2));
    assert.deepEqual(late.events.map(progressOf), [1n, 2n]);
  });

  it('misses no state event among a flood of progress', async () => {
    const { id } = await takeBackup(lab);
    const job = await jobOf(agent, id);
    const watchers = [watch(lab, id), watch(lab, id)];
    job.emit(happening.accepted(STAGE_PREPARE));
    for (let round = 0; round < 50; round += 1) {
      job.emit(...Array.from({ length: 20 }, (_, step) => happening.progress(STAGE_PREPARE, BigInt(step))));
      job.emit({ $case: 'warning', value: { reason: 'TEST', message: String(round), target: '' } });
    }
    job.emit(happening.backedUp(job.start as TakeBackupStart));
    for (const { events, ended } of watchers) {
      assert.equal(await ended, undefined);
      const states = events.filter((event) => event.event?.$case !== 'stageProgress');
      assert.deepEqual(
        states.map((event) => event.sequence),
        Array.from({ length: 52 }, (_, index) => BigInt(index + 1)),
      );
    }
  });

  it('tells watchers that the controller stops', async () => {
    const { id } = await takeBackup(lab);
    await jobOf(agent, id);
    const seen = watch(lab, id);
    agent.jobs.get(id)?.emit(happening.accepted(STAGE_PREPARE));
    await eventually(() => Promise.resolve(seen.events.length === 1));
    const heard: string[] = [];
    const { operations } = lab.clients;
    operations
      .watchOperation({ operationId: id, afterSequence: 0n })
      .on('data', ({ event, goodbye }: WatchOperationResponse) => {
        heard.push(event?.event?.$case ?? `goodbye after ${goodbye?.resumeAfterSequence}`);
      })
      .on('error', (error: ServiceError) => heard.push(status[error.code]));
    await eventually(() => Promise.resolve(heard.length === 1));
    await lab.stopController();
    assert.equal((await seen.ended)?.reason, 'SHUTTING_DOWN');
    await eventually(() => Promise.resolve(heard.length === 3));
    assert.deepEqual(heard, ['accepted', 'goodbye after 1', 'UNAVAILABLE']);
    assert.ok(agent.jobs.get(id)?.commands.every(({ $case }) => $case !== 'cancel'));
  });

  it('refuses what is not there', async () => {
    assert.equal((await watch(lab, 'nothing').ended)?.reason, 'OPERATION_NOT_FOUND');
    assert.equal((await watch(lab, '').ended)?.reason, 'INVALID_REQUEST');
    const { id } = await takeBackup(lab);
    assert.equal((await watch(lab, id, -1n).ended)?.reason, 'INVALID_REQUEST');
  });

  it('finds operations by host, domain, state and time', async () => {
    agent.domains = ['one', 'two', 'three'].map((name) => ({ uuid: randomUUID(), name, state: 'running' }));
    const { id: succeeded } = await takeBackup(lab, { domain: 'one' });
    const job = await jobOf(agent, succeeded);
    job.emit(happening.accepted(), happening.backedUp(job.start as TakeBackupStart));
    const { createTime } = await reaches(lab, succeeded, OperationState.OPERATION_STATE_SUCCEEDED);
    const { id: failed } = await takeBackup(lab, { domain: 'two' });
    const failure = toStatus(new HoldfastError('REPOSITORY_FULL', 'no space'));
    (await jobOf(agent, failed)).emit(happening.accepted(), { $case: 'failed', value: failure });
    await reaches(lab, failed, OperationState.OPERATION_STATE_FAILED);
    const { id: running } = await takeBackup(lab, { domain: 'three' });
    (await jobOf(agent, running)).emit(happening.accepted());
    await reaches(lab, running, OperationState.OPERATION_STATE_RUNNING);

    const { operations } = lab.clients;
    const listed = (query: Partial<ListOperationsRequest>) =>
      ask(operations.listOperations.bind(operations), ListOperationsRequest.fromPartial(query));
    const find = async (query: Partial<ListOperationsRequest>): Promise<string[]> =>
      (await listed(query)).operations.map((operation) => operation.id);
    const all = [running, failed, succeeded];
    assert.deepEqual(await find({}), all);
    assert.deepEqual(await find({ host: 'h1' }), all);
    assert.deepEqual(await find({ host: 'h2' }), []);
    assert.deepEqual(await find({ domain: 'two' }), [failed]);
    assert.deepEqual(await find({ domain: (agent.domains[0]?.uuid ?? '').toUpperCase() }), [succeeded]);
    assert.deepEqual(await find({ domain: "' or 1=1 --" }), []);
    const { OPERATION_STATE_FAILED, OPERATION_STATE_RUNNING } = OperationState;
    assert.deepEqual(await find({ states: [OPERATION_STATE_FAILED] }), [failed]);
    assert.deepEqual(await find({ states: [OPERATION_STATE_FAILED, OPERATION_STATE_RUNNING] }), [
      running,
      failed,
    ]);
    assert.ok(createTime);
    const later = new Date(createTime.getTime() + 1);
    assert.deepEqual(await find({ createTimeBefore: later }), [succeeded]);
    assert.deepEqual(await find({ createTimeFrom: later }), [running, failed]);
    assert.deepEqual(await find({ createTimeFrom: createTime, createTimeBefore: createTime }), []);
    for (const state of [0, 77, -3] as OperationState[]) {
      await refused(listed({ states: [state] }), 'INVALID_REQUEST');
    }
    await refused(listed({ createTimeFrom: new Date(8.64e15) }), 'INVALID_REQUEST');

    // A database as it was before operations had the names of their domains.
    await lab.stopController();
    const store = await openStore(lab.state.place, MASTER_KEY);
    for (const column of ['zone', 'host', 'domain_uuid', 'domain_name', 'state']) {
      await sql`drop index ${sql.ref(`operations_by_${column}`)}`.execute(store.db);
    }
    await sql`alter table operations drop column domain_name`.execute(store.db);
    await operationFilters(store.db, COLUMN_TYPES[kind]);
    await store.close();
    await lab.restartController();
    assert.deepEqual(await find({ domain: 'two' }), [failed]);
  });

  it('pages through operations and backups, newest first, whatever is added meanwhile', async () => {
    agent.domains = Array.from({ length: 6 }, (_, index) => ({
      uuid: `c8f0b1de-0000-4000-8000-00000000000${index}`,
      name: `vm${index}`,
      state: 'shut off',
    }));
    const ids: string[] = [];
    const take = async (domain: string): Promise<void> => {
      const { id } = await takeBackup(lab, { domain });
      ids.unshift(id);
      const job = await jobOf(agent, id);
      job.emit(happening.accepted(), happening.backedUp(job.start as TakeBackupStart));
      await reaches(lab, id, OperationState.OPERATION_STATE_SUCCEEDED);
    };
    for (const domain of ['vm0', 'vm1', 'vm2', 'vm3', 'vm4']) await take(domain);
    const expected = [...ids];
    const { operations, backups } = lab.clients;
    const list = (pageSize: number, pageToken: string) =>
      ask(
        operations.listOperations.bind(operations),
        ListOperationsRequest.fromPartial({ zone: 'z1', pageSize, pageToken }),
      );
    const first = await list(2, '');
    await take('vm5');
    const second = await list(2, first.nextPageToken);
    const third = await list(2, second.nextPageToken);
    assert.deepEqual(
      [first, second, third].flatMap((page) => page.operations.map((operation) => operation.id)),
      expected,
    );
    assert.equal(third.nextPageToken, '');
    assert.equal((await list(1_000, '')).operations.length, 6);
    await assert.rejects(list(1_001, ''), { reason: 'PAGE_TOO_LARGE' });
    await assert.rejects(list(-1, ''), { reason: 'INVALID_REQUEST' });
    await assert.rejects(list(1, 'made up'), { reason: 'INVALID_REQUEST' });
    const listBackups = (domain: string, pageToken: string) =>
      ask(backups.listBackups.bind(backups), { zone: 'z1', domain, pageSize: 4, pageToken, damaged: false });
    const page = await listBackups('', '');
    const rest = await listBackups('', page.nextPageToken);
    assert.equal(page.backups.length + rest.backups.length, 6);
    assert.equal(new Set([...page.backups, ...rest.backups].map((backup) => backup.id)).size, 6);
    assert.equal((await listBackups(agent.domains[3]?.uuid ?? '', '')).backups.length, 1);
  });
});

function progressOf(event: { readonly event: unknown }): bigint | undefined {
  const happened = event.event as { $case: string; value: { figures?: { processedBytes: bigint } } };
  return happened.$case === 'stageProgress' ? happened.value.figures?.processedBytes : undefined;
}
