import assert from 'node:assert/strict';
import { MIB } from '@holdfast/common/bytes.ts';
import { Stage, WaitReason } from '@holdfast/proto/holdfast/v1/event.ts';
import { OperationState } from '@holdfast/proto/holdfast/v1/operation.ts';
import {
  happening,
  type FakeAgent,
  type FakeJob,
  finishBackup,
  runningDomains,
} from '../testing/fake-agent.ts';
import {
  TEST_DEADLINE_MS,
  eventually,
  getOperation,
  jobOf,
  reaches,
  startLab,
  takeBackup,
  type AnotherController,
  type Lab,
  setSettings,
} from '../testing/lab.ts';

const { STAGE_BLOCKJOB } = Stage;

describe('several controllers that share slots and bandwidth', function () {
  this.timeout(2 * TEST_DEADLINE_MS);
  let lab: Lab;
  let agent: FakeAgent;
  let other: AnotherController;
  beforeEach(async () => {
    lab = await startLab('postgres');
    agent = await lab.furnish();
    agent.domains = runningDomains('a', 'b');
    other = await lab.startAnother();
  });
  afterEach(() => lab.close());

  it('give out the same slots', async () => {
    await setSettings(lab, { 'nas.backup.concurrency.per.host': '1' });
    const { id: first } = await takeBackup(lab, { domain: 'a' });
    const job = await jobOf(agent, first);
    const { id: second } = await takeBackup(other.lab, { domain: 'b' });
    await eventually(async () => {
      const { queued } = await getOperation(other.lab, second);
      return queued?.reason === WaitReason.WAIT_REASON_HOST_SLOT;
    });
    assert.ok(!agent.jobs.has(second));
    job.emit(happening.accepted());
    finishBackup(job);
    const next = await jobOf(agent, second);
    next.emit(happening.accepted());
    finishBackup(next);
    await reaches(lab, second, OperationState.OPERATION_STATE_SUCCEEDED);
  });

  it('divide the same bandwidth', async () => {
    await setSettings(lab, { 'nas.backup.bandwidth.zone.limit.mbps': '10' });
    const jobs: FakeJob[] = [];
    let most = 0;
    const looking = setInterval(() => {
      most = Math.max(
        most,
        jobs.reduce((sum, job) => sum + (job.shareBytesPerSecond || Infinity), 0),
      );
    }, 1);
    try {
      for (const [at, domain] of [
        [lab, 'a'],
        [other.lab, 'b'],
      ] as const) {
        const job = await jobOf(agent, (await takeBackup(at, { domain })).id);
        jobs.push(job);
        job.emit(happening.accepted(STAGE_BLOCKJOB), happening.stageStarted(STAGE_BLOCKJOB));
      }
      const isHalf = ({ shareBytesPerSecond }: FakeJob): boolean =>
        Math.abs(shareBytesPerSecond / MIB - 5) < 0.01;
      await eventually(() => Promise.resolve(jobs.every(isHalf)));
      const [first, second] = jobs;
      assert.ok(first !== undefined && second !== undefined);
      jobs.splice(0, 1);
      finishBackup(first);
      await eventually(() => Promise.resolve(Math.abs(second.shareBytesPerSecond / MIB - 10) < 0.01));
      assert.ok(most <= 10 * MIB, `${most / MIB} MiB/s were in force`);
    } finally {
      clearInterval(looking);
    }
  });
});
