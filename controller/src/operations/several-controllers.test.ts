import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import type { HoldfastError } from '@holdfast/common/errors.ts';
import type { TakeBackupStart } from '@holdfast/proto/holdfast/agent/v1/agent.ts';
import { Stage } from '@holdfast/proto/holdfast/v1/event.ts';
import { OperationState } from '@holdfast/proto/holdfast/v1/operation.ts';
import { happening, type FakeAgent, type FakeJob, finishBackup } from '../testing/fake-agent.ts';
import {
  ask,
  eventually,
  getOperation,
  jobOf,
  reaches,
  setSettings,
  startLab,
  takeBackup,
  TEST_DEADLINE_MS,
  watch,
  type AnotherController,
  type Lab,
} from '../testing/lab.ts';
import { query } from '../testing/stores.ts';

const { STAGE_BLOCKJOB, STAGE_PREPARE } = Stage;
const { OPERATION_STATE_SUCCEEDED: SUCCEEDED } = OperationState;

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
    assert.equal((await getOperation(third.lab, id)).state, SUCCEEDED);
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

  it('rotates a key to its end when the one that began stands still, and what that one still does harms nothing', async () => {
    await setSettings(lab, { 'nas.backup.encryption.passphrase': 'of the zone' });
    const backupIds: string[] = [];
    for (const settings of Array(3).fill({ 'nas.backup.encryption.enabled': 'true' }) as Record<
      string,
      string
    >[]) {
      const { id, backupId } = await takeBackup(lab, { settings });
      const job = await jobOf(agent, id);
      job.emit(happening.accepted(), happening.backedUp(job.start as TakeBackupStart));
      await reaches(lab, id, SUCCEEDED);
      backupIds.push(backupId);
    }
    const files = (): Map<string, Buffer> => agent.keyFiles.get('r1') ?? new Map<string, Buffer>();
    // The first call that wraps backups anew is on its way until the test says so.
    const arrived = Promise.withResolvers<undefined>();
    const delivered = Promise.withResolvers<undefined>();
    const written: number[] = [];
    agent.onKeyFiles = ({ backups }) => {
      if (backups.length === 0) return undefined;
      written.push(backups.length);
      if (written.length > 1) return undefined;
      arrived.resolve(undefined);
      return delivered.promise;
    };
    const { keys } = lab.clients;
    const rotation = await ask(keys.rotateKey.bind(keys), { zone: 'z1', requestId: '' });
    const id = rotation.operation?.id ?? '';
    await arrived.promise;
    // The first one comes back under a new name and may take it on again: until it is the other one's.
    const leader = async (): Promise<string> => {
      const [row] = await sql(`select leader from operations where id = '${id}'`);
      return String(row?.['leader']);
    };
    const [standing] = await sql(`select id from controllers where id <> '${await leader()}'`);
    await eventually(async () => {
      const name = await leader();
      if (name === standing?.['id']) return true;
      await sql(`update controllers set lease_until_ms = 0 where id = '${name}'`);
      return undefined;
    });
    await reaches(other.lab, id, SUCCEEDED);

    const seen = await getOperation(other.lab, id);
    const left = new Map(files());
    delivered.resolve(undefined);
    // Until the first one has gone over what it led.
    await eventually(() =>
      takeBackup(lab).catch((error: unknown) => {
        assert.equal((error as HoldfastError).reason, 'STATE_UNAVAILABLE');
        return undefined;
      }),
    );
    assert.deepEqual(written, [3, 3]);
    assert.deepEqual(files(), left, 'the first one wrote over what the other one had written');
    assert.deepEqual(await getOperation(other.lab, id), seen);
    assert.deepEqual(
      [...files().keys()].toSorted(),
      [
        ...backupIds.map((each) => `some/${each}/key.${rotation.keyId}.age`),
        `zone-keys/${rotation.keyId}.age`,
      ].toSorted(),
    );
    // The next one finds them all, whoever of the two wrote them.
    const next = await ask(other.lab.clients.keys.rotateKey.bind(other.lab.clients.keys), {
      zone: 'z1',
      requestId: '',
    });
    const { result, warnings } = await reaches(other.lab, next.operation?.id ?? '', SUCCEEDED);
    assert.deepEqual(result?.result, {
      $case: 'keys',
      value: { backupCount: 3n, retiredKeyIds: [rotation.keyId] },
    });
    assert.deepEqual(warnings, []);
    assert.equal([...files().keys()].filter((name) => name.includes(rotation.keyId)).length, 0);
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
