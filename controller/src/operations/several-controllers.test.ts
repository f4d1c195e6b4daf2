import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import type { HoldfastError } from '@holdfast/common/errors.ts';
import { Stage } from '@holdfast/proto/holdfast/v1/event.ts';
import { OperationState } from '@holdfast/proto/holdfast/v1/operation.ts';
import { happening, type FakeAgent, type FakeJob, finishBackup } from '../testing/fake-agent.ts';
import {
  ask,
  eventually,
  getOperation,
  jobOf,
  reaches,
  startLab,
  takeBackup,
  TEST_DEADLINE_MS,
  watch,
  type AnotherController,
  type Lab,
} from '../testing/lab.ts';
import { query } from '../testing/stores.ts';

const { STAGE_BLOCKJOB, STAGE_PREPARE } = Stage;

describe('several controllers on one PostgreSQL', function () {
  this.timeout(2 * TEST_DEADLINE_MS);
  let lab: Lab;
  let agent: FakeAgent;
  let other: AnotherController;
  beforeEach(async () => {
    lab = await startLab('postgres');
    agent = await lab.furnish();
    other = await lab.startAnother();
  });
  afterEach(() => lab.close());

  const sql = (text: string) =>
    query(lab.state.place.kind === 'postgres' ? lab.state.place.url.reveal() : '', text);
  /** Starts a backup that runs, at the first controller. */
  const startRunning = async (): Promise<{ readonly id: string; readonly job: FakeJob }> => {
    const { id } = await takeBackup(lab);
    const job = await jobOf(agent, id);
    job.emit(happening.accepted(STAGE_PREPARE, STAGE_BLOCKJOB), happening.stageStarted(STAGE_BLOCKJOB));
    await eventually(() => Promise.resolve(job.acknowledged === 2n));
    return { id, job };
  };
  /** The numbers of stored events that were seen, and not those of progress. */
  const numbers = (seen: ReturnType<typeof watch>): number[] =>
    seen.events
      .filter(({ event }) => event?.$case !== 'stageProgress')
      .map(({ sequence }) => Number(sequence));

  it('shows at any of them what another one leads, its progress too', async () => {
    const { id, job } = await startRunning();
    const seen = watch(other.lab, id);
    await eventually(async () => {
      job.emit(happening.progress(STAGE_BLOCKJOB, 7n));
      return Promise.resolve(seen.events.some(({ event }) => event?.$case === 'stageProgress'));
    });
    const [stage] = (await getOperation(other.lab, id)).stages;
    assert.equal(stage?.figures?.processedBytes, 7n);
    finishBackup(job);
    assert.equal(await seen.ended, undefined);
    assert.deepEqual(numbers(seen), [1, 2, 3, 4]);
  });

  it('is steered through any of them', async () => {
    const { id, job } = await startRunning();
    const { operations } = other.lab.clients;
    const change = { $case: 'bandwidthLimitMibps', value: 5n } as const;
    await ask(operations.updateOperation.bind(operations), { operationId: id, change });
    await eventually(() => Promise.resolve(job.commands.some(({ $case }) => $case === 'setBandwidth')));
    await ask(operations.cancelOperation.bind(operations), { operationId: id });
    await eventually(() => Promise.resolve(job.commands.some(({ $case }) => $case === 'cancel')));
  });

  it('is taken over from one that stops, with a larger epoch, from the event that came last', async () => {
    const { id, job } = await startRunning();
    const seen = watch(other.lab, id);
    await lab.stopController();
    await eventually(() => Promise.resolve(agent.attachments.length > 0));
    assert.deepEqual(agent.attachments, [{ jobId: id, afterSequence: 2n, fencingEpoch: 2n }]);
    finishBackup(job);
    assert.equal(await seen.ended, undefined);
    assert.deepEqual(numbers(seen), [1, 2, 3, 4]);
    assert.equal(agent.jobs.size, 1);
  });

  it('is stored by the one that leads it alone, and led again by one that came back', async () => {
    const { id, job } = await startRunning();
    const seen = watch(lab, id);
    // As if the first one had stood still for a while.
    await sql('update controllers set lease_until_ms = 0 where id = (select leader from operations)');
    await eventually(() => Promise.resolve(agent.attachments.length > 0));
    const third = await lab.startAnother();
    finishBackup(job);
    assert.equal(await seen.ended, undefined);
    assert.deepEqual(numbers(seen), [1, 2, 3, 4]);
    assert.equal((await getOperation(third.lab, id)).state, OperationState.OPERATION_STATE_SUCCEEDED);
    // The first one has a new name, and leads what it takes on.
    agent.script = [happening.accepted()];
    const { id: next } = await eventually(() =>
      takeBackup(lab).catch((error: unknown) => {
        // Until it knows.
        assert.equal((error as HoldfastError).reason, 'STATE_UNAVAILABLE');
        return undefined;
      }),
    );
    await reaches(other.lab, next, OperationState.OPERATION_STATE_RUNNING);
  });

  it('takes a request that comes to two at once on once', async () => {
    const requestId = randomUUID();
    const [one, two] = await Promise.all([
      takeBackup(lab, { requestId }),
      takeBackup(other.lab, { requestId }),
    ]);
    assert.equal(one.id, two.id);
    await jobOf(agent, one.id);
    assert.equal(agent.jobs.size, 1);
  });
});
