import assert from 'node:assert/strict';
import { VerifyBackupRequest } from '@holdfast/proto/holdfast/v1/backup.ts';
import { HoldfastError } from '@holdfast/common/errors.ts';
import type { TakeBackupStart } from '@holdfast/proto/holdfast/agent/v1/agent.ts';
import { WaitReason, type Queued } from '@holdfast/proto/holdfast/v1/event.ts';
import { OperationState } from '@holdfast/proto/holdfast/v1/operation.ts';
import { happening, type FakeAgent, runningDomains } from '../testing/fake-agent.ts';
import {
  TEST_DEADLINE_MS,
  ask,
  eventually,
  getOperation,
  jobOf,
  reaches,
  startLab,
  takeBackup,
  watch,
  type Lab,
  addHost,
  setSettings,
} from '../testing/lab.ts';
import { describeOnBothStores } from '../testing/stores.ts';

const PER_HOST = 'nas.backup.concurrency.per.host';
const PER_REPOSITORY = 'nas.backup.concurrency.per.repository';
const PER_ZONE = 'nas.backup.concurrency.per.zone';
const { OPERATION_STATE_PENDING, OPERATION_STATE_SUCCEEDED, OPERATION_STATE_CANCELLED } = OperationState;

describeOnBothStores('admission', function (kind) {
  this.timeout(TEST_DEADLINE_MS);
  let lab: Lab;
  let first: FakeAgent;
  let second: FakeAgent;
  beforeEach(async () => {
    lab = await startLab(kind, { heartbeatMs: 50 });
    first = await lab.furnish();
    second = await lab.startAgent('h2', 'z1');
    await addHost(lab, second, 'h2');
    first.domains = runningDomains('a1', 'a2', 'a3');
    second.domains = runningDomains('b1', 'b2');
  });
  afterEach(() => lab.close());

  const start = async (domain: string): Promise<string> => (await takeBackup(lab, { domain })).id;
  const finish = async (agent: FakeAgent, id: string): Promise<void> => {
    const job = await jobOf(agent, id);
    job.emit(happening.accepted(), happening.backedUp(job.start as TakeBackupStart));
    await reaches(lab, id, OPERATION_STATE_SUCCEEDED);
  };
  const queuedAs = (id: string, like: Partial<Queued>): Promise<Queued> =>
    eventually(async () => {
      const { queued } = await getOperation(lab, id);
      const fits = Object.entries(like).every(([key, value]) => queued?.[key as keyof Queued] === value);
      return queued !== undefined && fits ? queued : undefined;
    });

  it('runs as many on a host as may, says what the others wait for, and lets them follow', async () => {
    await setSettings(lab, { [PER_HOST]: '1' });
    const one = await start('a1');
    await jobOf(first, one);
    const two = await start('a2');
    const three = await start('a3');
    await queuedAs(two, {
      position: 1,
      reason: WaitReason.WAIT_REASON_HOST_SLOT,
      subject: 'h1',
      message: 'waiting for a slot on host h1',
    });
    await queuedAs(three, { position: 2 });
    assert.equal((await getOperation(lab, two)).state, OPERATION_STATE_PENDING);
    // The other host is free.
    await finish(second, await start('b1'));
    const seen = watch(lab, three);
    await finish(first, one);
    await finish(first, two);
    await finish(first, three);
    assert.equal(await seen.ended, undefined);
    const waits = seen.events.flatMap(({ event }) =>
      event?.$case === 'queued' ? [event.value.position] : [],
    );
    assert.ok(waits.includes(2), waits.join());
    assert.equal((await getOperation(lab, three)).queued, undefined);
  });

  it('counts by repository and by zone, and follows a changed setting at once', async () => {
    await setSettings(lab, { [PER_REPOSITORY]: '1' });
    const one = await start('a1');
    await jobOf(first, one);
    const two = await start('b1');
    await queuedAs(two, { reason: WaitReason.WAIT_REASON_REPOSITORY_SLOT, subject: 'r1' });
    await setSettings(lab, { [PER_ZONE]: '1' }, [PER_REPOSITORY]);
    await queuedAs(two, { reason: WaitReason.WAIT_REASON_ZONE_SLOT, subject: 'z1' });
    await setSettings(lab, { [PER_ZONE]: '2' });
    await finish(second, two);
    await finish(first, one);
  });

  it('ends one that is cancelled while it waits, and the agent never hears of it', async () => {
    await setSettings(lab, { [PER_ZONE]: '1' });
    const one = await start('a1');
    const two = await start('a2');
    await queuedAs(two, { position: 1 });
    const { operations } = lab.clients;
    const { operation } = await ask(operations.cancelOperation.bind(operations), { operationId: two });
    assert.equal(operation?.state, OPERATION_STATE_CANCELLED);
    await finish(first, one);
    assert.ok(!first.jobs.has(two));
  });

  it('keeps the queue over a restart', async () => {
    await setSettings(lab, { [PER_ZONE]: '1' });
    const one = await start('a1');
    await jobOf(first, one);
    const two = await start('a2');
    await queuedAs(two, { position: 1 });
    await lab.restartController();
    await queuedAs(two, { position: 1, message: 'waiting for a slot in zone z1' });
    assert.ok(!first.jobs.has(two));
    await finish(first, one);
    await finish(first, two);
  });

  it('lets the work on a drained host go on, and gives it nothing more', async () => {
    await setSettings(lab, { [PER_HOST]: '1' });
    const one = await start('a1');
    await jobOf(first, one);
    const two = await start('a2');
    await queuedAs(two, { position: 1 });
    const { hosts } = lab.clients;
    const { host } = await ask(hosts.drainHost.bind(hosts), { name: 'h1' });
    assert.deepEqual([host?.runningOperations, host?.queuedOperations], [1, 1]);
    await finish(first, one);
    await queuedAs(two, {
      reason: WaitReason.WAIT_REASON_HOST_DRAINED,
      message: 'waiting for host h1, which is drained',
    });
    assert.ok(!first.jobs.has(two));
    await ask(hosts.undrainHost.bind(hosts), { name: 'h1' });
    await finish(first, two);
  });

  it('holds nobody up for a host that is down', async () => {
    await setSettings(lab, { [PER_ZONE]: '1', [PER_REPOSITORY]: '1' });
    const one = await start('a1');
    const job = await jobOf(first, one);
    job.emit(happening.accepted());
    const two = await start('b1');
    await queuedAs(two, { position: 1 });
    await first.stop();
    await finish(second, two);
    await first.startAgain();
    job.emit(happening.backedUp(job.start as TakeBackupStart));
    await reaches(lab, one, OPERATION_STATE_SUCCEEDED);
  });

  it('finds a domain again that has moved while its backup waited', async () => {
    await setSettings(lab, { [PER_HOST]: '1' });
    const one = await start('a1');
    await jobOf(first, one);
    const two = await start('a2');
    await queuedAs(two, { position: 1 });
    const moved = first.domains.filter(({ name }) => name === 'a2');
    second.domains = [...second.domains, ...moved];
    // As a migration leaves it behind.
    first.domains = first.domains.map((each) => (each.name === 'a2' ? { ...each, state: 'shut off' } : each));
    await finish(first, one);
    await finish(second, two);
    const { host, hostReason } = await getOperation(lab, two);
    assert.equal(host, 'h2');
    assert.equal(hostReason, 'The domain runs on h2. It is shut off on h1.');
    assert.ok(!first.jobs.has(two));
  });

  it('gives work that any host could do to the one that has a slot, with the reason', async () => {
    const taken = await takeBackup(lab, { domain: 'a1' });
    await finish(first, taken.id);
    await setSettings(lab, { [PER_HOST]: '1' });
    const busy = [await start('a1'), await start('b1')];
    await jobOf(first, busy[0] ?? '');
    await jobOf(second, busy[1] ?? '');
    const { backups } = lab.clients;
    const request = VerifyBackupRequest.fromPartial({ backupId: taken.backupId });
    const { operation } = await ask(backups.verifyBackup.bind(backups), request);
    const id = operation?.id ?? '';
    await queuedAs(id, { position: 1 });
    const placed = await getOperation(lab, id);
    const other = placed.host === 'h1' ? second : first;
    await finish(other, busy[other === first ? 0 : 1] ?? '');
    (await jobOf(other, id)).emit(happening.accepted(), happening.verified());
    const done = await reaches(lab, id, OPERATION_STATE_SUCCEEDED);
    assert.equal(done.host, other === first ? 'h1' : 'h2');
    assert.match(done.hostReason, /least busy of 2 hosts that fit, with 0 operations/);
  });

  it('takes nobody a slot who cannot begin', async () => {
    await setSettings(lab, { [PER_ZONE]: '1' });
    first.refusal = new HoldfastError('NO_DISKS', 'no disks');
    const one = await start('a1');
    await reaches(lab, one, OperationState.OPERATION_STATE_FAILED);
    await finish(second, await start('b1'));
  });
});
