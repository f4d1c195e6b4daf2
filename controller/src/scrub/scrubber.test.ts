import assert from 'node:assert/strict';
import { HoldfastError } from '@holdfast/common/errors.ts';
import type { VerifyBackupStart } from '@holdfast/proto/holdfast/agent/v1/agent.ts';
import { BackupState, VerifyBackupRequest, type Backup } from '@holdfast/proto/holdfast/v1/backup.ts';
import { BackupResult, WaitReason } from '@holdfast/proto/holdfast/v1/event.ts';
import { Manifest } from '@holdfast/proto/holdfast/v1/manifest.ts';
import {
  ListOperationsRequest,
  OperationKind,
  OperationOrigin,
  OperationState,
  type Operation,
} from '@holdfast/proto/holdfast/v1/operation.ts';
import type { ScrubStatus } from '@holdfast/proto/holdfast/v1/statistics.ts';
import { happening, type FakeAgent, type FakeJob } from '../testing/fake-agent.ts';
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
  type AnotherController,
  type Lab,
} from '../testing/lab.ts';
import { describeOnBothStores } from '../testing/stores.ts';

const { OPERATION_STATE_SUCCEEDED: SUCCEEDED, OPERATION_STATE_CANCELLED: CANCELLED } = OperationState;
const MINUTE = 60_000;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;
/** Often: the tests' time goes by in jumps. */
const LOOK_MS = 50;
/** So long nothing may happen until it is said that nothing happens: some looks. */
const looks = (): Promise<void> => new Promise((resolve) => setTimeout(resolve, 4 * LOOK_MS));

/** A zone whose backups are days old, and a clock that stands still. */
interface Scene {
  readonly lab: Lab;
  readonly agent: FakeAgent;
  /** Takes a backup whose snapshot is so many days old. */
  backedUp(ageDays: number, digests?: readonly ('stored' | 'content')[]): Promise<string>;
  /** The scrubs so far, oldest first. */
  scrubs(): Promise<readonly Operation[]>;
  /** Waits for a further scrub, and gives the agent's job of it. */
  nextScrub(): Promise<{ readonly operation: Operation; readonly job: FakeJob }>;
  pass(ms: number): void;
  set(values: Record<string, string>): Promise<void>;
}

async function stage(kind: 'sqlite' | 'postgres', scrubLookMs = LOOK_MS): Promise<Scene> {
  let time = Date.UTC(2026, 5, 15, 12);
  const lab = await startLab(kind, { now: () => new Date(time), scrubLookMs });
  const agent = await lab.furnish();
  const seen = new Set<string>();
  const scrubs: Scene['scrubs'] = async () => {
    const { operations: client } = lab.clients;
    const request = ListOperationsRequest.fromPartial({ pageSize: 1_000 });
    const { operations } = await ask(client.listOperations.bind(client), request);
    return operations
      .filter(({ origin }) => origin === OperationOrigin.OPERATION_ORIGIN_SCRUB)
      .toSorted((one, other) => Number(one.createTime) - Number(other.createTime));
  };
  return {
    ...{ lab, agent, scrubs },
    backedUp: async (ageDays, digests = ['stored']) => {
      const operation = await takeBackup(lab);
      const job = await jobOf(agent, operation.id);
      const manifest = Manifest.fromPartial({
        ...{ version: 1, backupId: operation.backupId, domainUuid: operation.domainUuid, domainName: 'vm' },
        snapshotTime: new Date(time - ageDays * DAY),
        disks: [
          {
            target: 'vda',
            ...Object.fromEntries(digests.map((level) => [`${level}Digests`, { algorithm: 'sha256' }])),
          },
        ],
      });
      const value = BackupResult.fromPartial({ path: `p/${operation.backupId}`, manifest });
      job.emit({ $case: 'completed', value: { result: { $case: 'backup', value } } });
      await reaches(lab, operation.id, SUCCEEDED);
      return operation.backupId;
    },
    nextScrub: async () => {
      const operation = await eventually(async () => (await scrubs()).find(({ id }) => !seen.has(id)));
      seen.add(operation.id);
      return { operation, job: await jobOf(agent, operation.id) };
    },
    pass: (ms) => {
      time += ms;
    },
    set: async (values) => {
      const prefixed = Object.entries(values).map(([key, value]) => [`nas.backup.scrub.${key}`, value]);
      await setSettings(lab, Object.fromEntries(prefixed) as Record<string, string>);
    },
  };
}

/** Ends a verification well. */
function prove(job: FakeJob): void {
  const { level, samplePercent } = job.start as VerifyBackupStart;
  const value = { level, samplePercent: samplePercent === 0 ? 100 : samplePercent, disks: [] };
  job.emit({ $case: 'completed', value: { result: { $case: 'verification', value } } });
}

async function statusOf({ lab: { clients } }: Scene): Promise<ScrubStatus> {
  const { statistics } = clients;
  const request = { zone: 'z1', repository: 'r1' };
  const { repositories } = await ask(statistics.listRepositoryStatistics.bind(statistics), request);
  assert.ok(repositories[0]?.scrub);
  return repositories[0].scrub;
}

async function getBackup({ lab }: Scene, backupId: string): Promise<Backup> {
  const { backups } = lab.clients;
  const { backup } = await ask(backups.getBackup.bind(backups), { backupId });
  assert.ok(backup);
  return backup;
}

describeOnBothStores('scrubs', function (kind) {
  this.timeout(TEST_DEADLINE_MS);
  let scene: Scene;
  beforeEach(async () => {
    scene = await stage(kind);
  });
  afterEach(() => scene.lab.close());

  it('are off by default; then they prove the oldest proof first, one at a time, as they are told', async () => {
    const [young, old, older] = [
      await scene.backedUp(29),
      await scene.backedUp(40),
      await scene.backedUp(50),
    ];
    await looks();
    assert.deepEqual(await scene.scrubs(), []);
    const { unprovedSinceTime, ...off } = await statusOf(scene);
    assert.deepEqual(off, {
      ...{ enabled: false, open: false, operationId: '', dueBackups: 2n, damagedBackups: 0n },
      ...{ restUntilTime: undefined, restMessage: '' },
    });
    assert.equal(unprovedSinceTime?.toISOString(), '2026-04-26T12:00:00.000Z');
    await scene.set({ enabled: 'true', 'sample.percent': '25', 'bandwidth.limit.mbps': '7' });
    const first = await scene.nextScrub();
    const { kind: does, origin, zone, repository, backupId, bandwidthLimitMibps } = first.operation;
    assert.deepEqual(
      [does, origin, zone, repository, backupId, bandwidthLimitMibps],
      [
        OperationKind.OPERATION_KIND_VERIFY_BACKUP,
        OperationOrigin.OPERATION_ORIGIN_SCRUB,
        ...['z1', 'r1', older, 7n],
      ],
    );
    const start = first.job.start as VerifyBackupStart;
    assert.deepEqual([start.level, start.samplePercent, start.bandwidthLimitMibps], ['stored', 25, 7n]);
    await looks();
    assert.equal((await scene.scrubs()).length, 1);
    const { open, operationId } = await statusOf(scene);
    assert.deepEqual([open, operationId], [true, first.operation.id]);
    prove(first.job);
    const second = await scene.nextScrub();
    scene.pass(1);
    assert.equal(second.operation.backupId, old);
    prove(second.job);
    await reaches(scene.lab, second.operation.id, SUCCEEDED);
    await looks();
    assert.equal((await scene.scrubs()).length, 2);
    assert.equal((await getBackup(scene, older)).lastProof?.operationId, first.operation.id);
    // It grows old, and then the others anew.
    scene.pass(2 * DAY);
    const third = await scene.nextScrub();
    assert.equal(third.operation.backupId, young);
    prove(third.job);
    scene.pass(31 * DAY);
    assert.equal((await scene.nextScrub()).operation.backupId, older);
  });

  it('follow each other, and a setting, at once', async () => {
    await scene.lab.close();
    scene = await stage(kind, HOUR);
    for (let age = 40; age < 43; age += 1) await scene.backedUp(age);
    await scene.set({ enabled: 'true' });
    for (let scrub = 0; scrub < 3; scrub += 1) prove((await scene.nextScrub()).job);
  });

  it('count proofs of their level alone, and fall back where there are no digests', async () => {
    const [bare, stored, content] = [
      await scene.backedUp(60, []),
      await scene.backedUp(50),
      await scene.backedUp(40, ['stored', 'content']),
    ];
    const { backups } = scene.lab.clients;
    const request = VerifyBackupRequest.fromPartial({ backupId: content, level: 'stored' });
    const { operation } = await ask(backups.verifyBackup.bind(backups), request);
    prove(await jobOf(scene.agent, operation?.id ?? ''));
    await reaches(scene.lab, operation?.id ?? '', SUCCEEDED);
    await scene.set({ enabled: 'true', level: 'content' });
    for (const [backupId, level] of [
      [bare, 'metadata'],
      [stored, 'stored'],
      [content, 'content'],
    ] as const) {
      const next = await scene.nextScrub();
      assert.deepEqual(
        [next.operation.backupId, (next.job.start as VerifyBackupStart).level],
        [backupId, level],
      );
      prove(next.job);
      await reaches(scene.lab, next.operation.id, SUCCEEDED);
    }
    await looks();
    assert.equal((await scene.scrubs()).length, 3);
  });

  it('begin within their window alone; what has begun goes on, what waits is withdrawn', async () => {
    await scene.backedUp(40);
    await scene.backedUp(50);
    await scene.set({ enabled: 'true', window: '22:00-01:00' });
    await looks();
    assert.deepEqual(await scene.scrubs(), []);
    scene.pass(10 * HOUR);
    const first = await scene.nextScrub();
    scene.pass(3 * HOUR);
    await looks();
    prove(first.job);
    await reaches(scene.lab, first.operation.id, SUCCEEDED);
    await looks();
    assert.equal((await scene.scrubs()).length, 1);
    // In the next night no slot is free.
    await setSettings(scene.lab, { 'nas.backup.concurrency.per.repository': '1' });
    const busy = await takeBackup(scene.lab);
    await jobOf(scene.agent, busy.id);
    scene.pass(21 * HOUR);
    const waiting = await eventually(async () => (await scene.scrubs())[1]);
    await eventually(async () => {
      const { queued } = await getOperation(scene.lab, waiting.id);
      return queued?.reason === WaitReason.WAIT_REASON_REPOSITORY_SLOT;
    });
    scene.pass(3 * HOUR);
    await reaches(scene.lab, waiting.id, CANCELLED);
    assert.ok(!scene.agent.jobs.has(waiting.id));
  });

  it('keep no backup waiting', async () => {
    await scene.backedUp(40);
    await setSettings(scene.lab, { 'nas.backup.concurrency.per.repository': '1' });
    await scene.set({ enabled: 'true' });
    const { job } = await scene.nextScrub();
    job.emit(happening.accepted());
    const backup = await takeBackup(scene.lab);
    await jobOf(scene.agent, backup.id);
  });

  it('mark what is damaged, and leave it alone until it is proved again', async () => {
    const backupId = await scene.backedUp(40);
    await scene.set({ enabled: 'true' });
    const { operation, job } = await scene.nextScrub();
    const range = { offset: 4_096n, length: 4_096n };
    job.emit(
      { $case: 'damageFound', value: { target: 'vda', level: 'stored', ranges: [range], more: false } },
      happening.failed(new HoldfastError('BACKUP_DAMAGED', 'flipped')),
    );
    await reaches(scene.lab, operation.id, OperationState.OPERATION_STATE_FAILED);
    const { dueBackups, damagedBackups } = await statusOf(scene);
    assert.deepEqual([dueBackups, damagedBackups], [0n, 1n]);
    const { state, damage } = await getBackup(scene, backupId);
    assert.deepEqual(
      [state, damage?.operationId, damage?.level],
      [BackupState.BACKUP_STATE_DAMAGED, operation.id, 'stored'],
    );
    // The repository is as good as any: others are scrubbed at once, and it alone is not.
    const sound = await scene.backedUp(35);
    const next = await scene.nextScrub();
    assert.equal(next.operation.backupId, sound);
    prove(next.job);
    scene.pass(DAY);
    await looks();
    assert.equal((await scene.scrubs()).length, 2);
    const { backups } = scene.lab.clients;
    const request = VerifyBackupRequest.fromPartial({ backupId, level: 'stored' });
    const again = await ask(backups.verifyBackup.bind(backups), request);
    prove(await jobOf(scene.agent, again.operation?.id ?? ''));
    await reaches(scene.lab, again.operation?.id ?? '', SUCCEEDED);
    scene.pass(31 * DAY);
    const later = await scene.nextScrub();
    assert.ok([backupId, sound].includes(later.operation.backupId));
  });

  it('rest after one that came to nothing, ever longer up to an hour, and take another backup next', async () => {
    const [old, older] = [await scene.backedUp(40), await scene.backedUp(50)];
    await scene.set({ enabled: 'true' });
    const fail = async (job: FakeJob, operation: Operation): Promise<void> => {
      job.emit(happening.failed(new HoldfastError('REPOSITORY_STALLED', 'it does not answer')));
      await reaches(scene.lab, operation.id, OperationState.OPERATION_STATE_FAILED);
    };
    const first = await scene.nextScrub();
    assert.equal(first.operation.backupId, older);
    await fail(first.job, first.operation);
    await looks();
    const { restUntilTime, restMessage } = await statusOf(scene);
    assert.equal(restUntilTime?.toISOString(), '2026-06-15T12:01:00.000Z');
    assert.equal(restMessage, 'it does not answer');
    scene.pass(MINUTE - 1);
    await looks();
    assert.equal((await scene.scrubs()).length, 1);
    scene.pass(1);
    const second = await scene.nextScrub();
    assert.equal(second.operation.backupId, old);
    await fail(second.job, second.operation);
    // Both have had their turn for today. What the controller knew of it is stored.
    await scene.lab.restartController();
    scene.pass(HOUR);
    await looks();
    assert.equal((await scene.scrubs()).length, 2);
    scene.pass(DAY);
    const third = await scene.nextScrub();
    assert.equal(third.operation.backupId, older);
    prove(third.job);
    // All is well again.
    assert.equal((await scene.nextScrub()).operation.backupId, old);
  });

  it('rest when no host answers, and for an hour after one was cancelled', async () => {
    await scene.backedUp(40);
    await scene.agent.stop();
    await scene.set({ enabled: 'true' });
    await looks();
    assert.deepEqual(await scene.scrubs(), []);
    await scene.agent.startAgain();
    const first = await eventually(async () => {
      scene.pass(MINUTE);
      await looks();
      return (await scene.scrubs()).length > 0 ? scene.nextScrub() : undefined;
    });
    const { operations } = scene.lab.clients;
    await ask(operations.cancelOperation.bind(operations), { operationId: first.operation.id });
    first.job.emit(happening.failed(new HoldfastError('CANCELLED', 'on request')));
    await reaches(scene.lab, first.operation.id, CANCELLED);
    scene.pass(HOUR - 1);
    await looks();
    assert.equal((await scene.scrubs()).length, 1);
    scene.pass(1);
    assert.equal((await scene.nextScrub()).operation.backupId, first.operation.backupId);
  });

  it('of a backup that is deleted are cancelled, and the next one begins at once', async () => {
    const [next, doomed] = [await scene.backedUp(40), await scene.backedUp(41)];
    await scene.set({ enabled: 'true' });
    const { operation, job } = await scene.nextScrub();
    assert.equal(operation.backupId, doomed);
    job.emit(happening.accepted());
    const { backups } = scene.lab.clients;
    const deleted = ask(backups.deleteBackup.bind(backups), { backupId: doomed, requestId: '' });
    await eventually(() => Promise.resolve(job.commands.some(({ $case }) => $case === 'cancel')));
    assert.deepEqual(scene.agent.deletions, []);
    job.emit(happening.failed(new HoldfastError('CANCELLED', 'on request')));
    await reaches(scene.lab, (await deleted).operation?.id ?? '', SUCCEEDED);
    assert.equal((await getOperation(scene.lab, operation.id)).state, CANCELLED);
    assert.equal((await scene.nextScrub()).operation.backupId, next);
  });
});

describe('scrubs by several controllers', function () {
  this.timeout(2 * TEST_DEADLINE_MS);
  let scene: Scene;
  let others: AnotherController[];
  beforeEach(async () => {
    scene = await stage('postgres');
    others = [await scene.lab.startAnother(), await scene.lab.startAnother()];
  });
  afterEach(() => scene.lab.close());

  it('are begun by one of them, and go on when that one is gone', async () => {
    const ids = [];
    for (let age = 40; age < 44; age += 1) ids.unshift(await scene.backedUp(age));
    await scene.set({ enabled: 'true' });
    for (const [index, backupId] of ids.entries()) {
      const { operation, job } = await scene.nextScrub();
      assert.equal(operation.backupId, backupId);
      job.emit(happening.accepted());
      await looks();
      assert.equal((await scene.scrubs()).length, index + 1);
      // When it leads this one, whoever is left takes it over.
      if (index === 1) await others[0]?.close();
      prove(job);
      await reaches(scene.lab, operation.id, SUCCEEDED);
    }
    await looks();
    assert.equal((await scene.scrubs()).length, ids.length);
    assert.equal(scene.agent.jobs.size, 2 * ids.length);
  });
});
