import assert from 'node:assert/strict';
import { MIB } from '@holdfast/common/bytes.ts';
import { RestoreBackupRequest, VerifyBackupRequest } from '@holdfast/proto/holdfast/v1/backup.ts';
import { Stage, WaitReason } from '@holdfast/proto/holdfast/v1/event.ts';
import { OperationState, type Operation } from '@holdfast/proto/holdfast/v1/operation.ts';
import {
  happening,
  type FakeAgent,
  type FakeJob,
  finishBackup,
  runningDomains,
} from '../testing/fake-agent.ts';
import {
  TEST_DEADLINE_MS,
  ask,
  eventually,
  getOperation,
  jobOf,
  reaches,
  startLab,
  takeBackup,
  type Lab,
  addHost,
  setSettings,
} from '../testing/lab.ts';
import { describeOnBothStores } from '../testing/stores.ts';

const BUDGET = 'nas.backup.bandwidth.zone.limit.mbps';
const LIMIT = 'nas.backup.bandwidth.limit.mbps';
/** A change is to be in force everywhere within a second. A single one gets more on a machine that is busy with other tests. */
const SECOND_MS = 1_000;
const SOON_MS = 3_000;
const { STAGE_BLOCKJOB, STAGE_CHECK, STAGE_CONVERT, STAGE_PUBLISH } = Stage;

describeOnBothStores('the bandwidth of a zone', function (kind) {
  this.timeout(TEST_DEADLINE_MS);
  let lab: Lab;
  let agents: FakeAgent[];
  let jobs: { id: string; job: FakeJob }[];
  let most: number;
  let looking: NodeJS.Timeout;
  beforeEach(async () => {
    lab = await startLab(kind, { heartbeatMs: 50 });
    jobs = [];
    agents = [await lab.furnish()];
    const second = await lab.startAgent('h2', 'z1');
    await addHost(lab, second, 'h2');
    agents.push(second);
    agents.forEach((agent, index) => {
      agent.domains = runningDomains(...['a', 'b', 'c'].map((name) => `${name}${index + 1}`));
    });
    await setBudget(10);
    most = 0;
    looking = setInterval(() => {
      most = Math.max(most, sum());
    }, 1);
  });
  afterEach(async () => {
    clearInterval(looking);
    await lab.close();
  });

  const setBudget = (mibps: number) => setSettings(lab, { [BUDGET]: String(mibps) });
  /** What all agents together may read, as they understand it. */
  const sum = (): number => jobs.reduce((total, { job }) => total + (job.shareBytesPerSecond || Infinity), 0);
  const start = async (domain: string, settings: Record<string, string> = {}): Promise<FakeJob> => {
    const { id } = await takeBackup(lab, { domain, settings });
    const job = await jobOf(agents[domain.endsWith('1') ? 0 : 1] ?? assert.fail(), id);
    jobs.push({ id, job });
    job.emit(happening.accepted(STAGE_BLOCKJOB, STAGE_PUBLISH));
    return job;
  };
  const read = async (domain: string, settings: Record<string, string> = {}): Promise<FakeJob> => {
    const job = await start(domain, settings);
    job.emit(happening.stageStarted(STAGE_BLOCKJOB));
    return job;
  };
  /** Lets the job of an operation read in a stage. */
  const follow = async (operation: Operation | undefined, stage: Stage): Promise<FakeJob> => {
    const { id, host } = operation ?? assert.fail();
    const job = await jobOf(agents[host === 'h1' ? 0 : 1] ?? assert.fail(), id);
    jobs.push({ id, job });
    job.emit(happening.accepted(stage), happening.stageStarted(stage));
    return job;
  };
  const end = async (job: FakeJob): Promise<void> => {
    jobs = jobs.filter((each) => each.job !== job);
    finishBackup(job);
    await reaches(lab, job.id, OperationState.OPERATION_STATE_SUCCEEDED);
  };
  /** Waits until the shares are these, in MiB/s. @returns how long that took, in milliseconds */
  const shares = async (...expected: readonly (readonly [FakeJob, number])[]): Promise<number> => {
    const since = performance.now();
    const isNear = ([job, mibps]: readonly [FakeJob, number]): boolean =>
      Math.abs(job.shareBytesPerSecond / MIB - mibps) < 0.01;
    await eventually(() => Promise.resolve(expected.every(isNear)));
    const took = performance.now() - since;
    assert.ok(took < SOON_MS, `the shares took ${took} ms`);
    return took;
  };

  it('is all of one backup that is alone, and divided when there are more', async () => {
    const one = await read('a1');
    await shares([one, 10]);
    const { bandwidthShareBytesPerSecond: shown } = await getOperation(lab, one.id);
    assert.equal(shown, BigInt(10 * MIB));
    const took: number[] = [];
    const two = await read('a2');
    took.push(await shares([one, 5], [two, 5]));
    const three = await read('b2');
    took.push(await shares([one, 10 / 3], [two, 10 / 3], [three, 10 / 3]));
    await end(two);
    took.push(await shares([one, 5], [three, 5]));
    await setBudget(8);
    took.push(await shares([one, 4], [three, 4]));
    await setBudget(10);
    await end(one);
    took.push(await shares([three, 10]));
    const middle = took.toSorted((a, b) => a - b)[2] ?? Infinity;
    assert.ok(middle < SECOND_MS, `the shares took ${took.join(', ')} ms`);
    assert.ok(most <= 10 * MIB, `${most / MIB} MiB/s were in force`);
  });

  it('follows a change of the budget at once, and ends with it', async () => {
    const [one, two] = [await read('a1'), await read('a2')];
    await shares([one, 5], [two, 5]);
    await setBudget(4);
    await shares([one, 2], [two, 2]);
    most = 0;
    await setBudget(6);
    await shares([one, 3], [two, 3]);
    assert.ok(most <= 6 * MIB);
    await setBudget(0);
    await shares([one, 0], [two, 0]);
    await setBudget(8);
    await shares([one, 4], [two, 4]);
  });

  it('gives what the limit of one backup leaves to the others', async () => {
    const one = await read('a1', { [LIMIT]: '2' });
    const two = await read('a2');
    await shares([one, 2], [two, 8]);
    assert.ok(most <= 10 * MIB);
  });

  it('gives what one does not use to those that can', async () => {
    const [slow, fast] = [await read('a1'), await read('a2')];
    await shares([slow, 5], [fast, 5]);
    let elapsedMs = 0;
    const feed = setInterval(() => {
      elapsedMs += 250;
      const bytes = (rate: number): bigint => BigInt(Math.round((rate * elapsedMs) / 1_000));
      slow.emit(reading(bytes(MIB), elapsedMs));
      fast.emit(reading(bytes(9 * MIB), elapsedMs));
    }, 50);
    try {
      await eventually(() => Promise.resolve(fast.shareBytesPerSecond > 8 * MIB));
    } finally {
      clearInterval(feed);
    }
    assert.ok(slow.shareBytesPerSecond >= MIB);
    // One that has read everything needs nothing more.
    slow.emit(happening.stageFinished(STAGE_BLOCKJOB));
    await eventually(() => Promise.resolve(fast.shareBytesPerSecond > 9.5 * MIB));
    assert.ok(most <= 10 * MIB);
  });

  it('is shared by verifications and restores, too', async () => {
    const taken = await read('b1');
    const { backupId } = await getOperation(lab, taken.id);
    await end(taken);
    const backup = await read('a1');
    await shares([backup, 10]);
    const { backups } = lab.clients;
    const verify = VerifyBackupRequest.fromPartial({
      ...{ backupId, host: 'h1', level: 'stored', bandwidthLimitMibps: 2n },
    });
    const { operation: verifying } = await ask(backups.verifyBackup.bind(backups), verify);
    const verification = await follow(verifying, STAGE_CHECK);
    await shares([backup, 8], [verification, 2]);
    const request = RestoreBackupRequest.fromPartial({ backupId, host: 'h2', directory: '/srv/restored' });
    const { operation: restoring } = await ask(backups.restoreBackup.bind(backups), request);
    const restore = await follow(restoring, STAGE_CONVERT);
    await shares([backup, 4], [verification, 2], [restore, 4]);
    jobs = jobs.filter(({ job }) => job !== verification);
    verification.emit(happening.verified());
    await shares([backup, 5], [restore, 5]);
    assert.ok(most <= 10 * MIB, `${most / MIB} MiB/s were in force`);
  });

  it('divides a budget among more backups than it has MiB/s', async () => {
    await setBudget(1);
    const all: FakeJob[] = [];
    for (const domain of ['a1', 'b1', 'c1', 'a2', 'b2', 'c2']) all.push(await read(domain));
    await shares(...all.map((job) => [job, 1 / 6] as const));
    assert.ok(most <= MIB);
  });

  it('begins no backup for which the others have made no room yet', async () => {
    const one = await read('a1');
    await shares([one, 10]);
    const [agent] = agents;
    assert.ok(agent);
    agent.numb = true;
    const { id } = await takeBackup(lab, { domain: 'a2' });
    const { queued } = await eventually(async () => {
      const operation = await getOperation(lab, id);
      return operation.queued === undefined ? undefined : operation;
    });
    assert.equal(queued?.reason, WaitReason.WAIT_REASON_BANDWIDTH);
    assert.equal(queued.message, 'waiting for bandwidth of zone z1');
    assert.ok(!agents[1]?.jobs.has(id));
    // A host that is down holds nobody up.
    await agent.stop();
    const two = await jobOf(agents[1] ?? assert.fail(), id);
    assert.equal(two.shareBytesPerSecond, 10 * MIB);
  });

  it('lets a backup be cancelled that waits for bandwidth', async () => {
    await shares([await read('a1'), 10]);
    const [agent] = agents;
    assert.ok(agent);
    agent.numb = true;
    const { id } = await takeBackup(lab, { domain: 'a2' });
    await eventually(async () => (await getOperation(lab, id)).queued);
    const { operations } = lab.clients;
    await ask(operations.cancelOperation.bind(operations), { operationId: id });
    await reaches(lab, id, OperationState.OPERATION_STATE_CANCELLED);
    await lab.restartController();
    assert.ok(!agents[1]?.jobs.has(id));
  });

  it('holds over a restart of the controller', async () => {
    const [one, two] = [await read('a1'), await read('a2')];
    await shares([one, 5], [two, 5]);
    await lab.restartController();
    const three = await read('b1');
    await shares([one, 10 / 3], [two, 10 / 3], [three, 10 / 3]);
    assert.ok(most <= 10 * MIB, `${most / MIB} MiB/s were in force`);
  });
});

function reading(inputBytes: bigint, elapsedMs: number) {
  const figures = {
    ...{ processedBytes: inputBytes, totalBytes: 1n << 40n, inputBytes, outputBytes: 0n },
    elapsedMs: BigInt(elapsedMs),
  };
  return { $case: 'stageProgress', value: { stage: STAGE_BLOCKJOB, figures, disks: [] } } as const;
}
