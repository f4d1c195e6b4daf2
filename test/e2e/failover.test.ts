import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { readdir, readFile } from 'node:fs/promises';
import path from 'node:path';
import pg from 'pg';
import { connectTo } from '@holdfast/common/client.ts';
import { fromServiceError } from '@holdfast/common/errors.ts';
import { AgentServiceClient, TakeBackupRequest } from '@holdfast/proto/holdfast/agent/v1/agent.ts';
import { Stage } from '@holdfast/proto/holdfast/v1/event.ts';
import { OperationState } from '@holdfast/proto/holdfast/v1/operation.ts';
import { useHoldfast } from '../harness/fixture.ts';
import { succeeded, type Followed } from '../harness/follow.ts';
import type { AgentService } from '../harness/holdfast.ts';
import { until } from '../lab/deadline.ts';
import type { Guest } from '../lab/guest.ts';
import { startPostgres } from '../lab/postgres.ts';
import { MiB } from '../lab/spec.ts';
import { requireNoGaps, withoutProgress } from './support/events.ts';

const TAKEN_OVER_MS = 15_000;
/** Half a minute for each disk. */
const SLOWLY = { 'nas.backup.bandwidth.limit.mbps': '1' };
const DISK = {
  target: 'vda',
  format: 'raw',
  sizeBytes: 32 * MiB,
  content: { kind: 'random' },
} as const;

describe('three controllers on one PostgreSQL', () => {
  const stack = new AsyncDisposableStack();
  after(() => stack.disposeAsync());
  const fixture = useHoldfast({
    guest: { disks: [DISK], start: false },
    holdfast: async () => ({
      databaseUrl: await createDatabase(stack),
      controllers: 3,
      agents: [{ zone: 'z1' }, { zone: 'z1' }],
    }),
  });

  it('lose one by kill -9, and one that stands still, and no event and no job with them', async () => {
    const { lab, holdfast } = fixture;
    const { controllers, clients, agents } = holdfast;
    const guests: Guest[] = [fixture.guest];
    while (guests.length < 7) guests.push(await lab.guest({ disks: [DISK], start: false }));

    // Four at the first controller, two at the second, one at the third; on two agents in turn.
    const leads = [0, 0, 0, 0, 1, 1, 2];
    const ids: string[] = [];
    for (const [index, guest] of guests.entries()) {
      const client = clients[leads[index] ?? 0];
      assert.ok(client);
      const host = agents[index % 2]?.hostName ?? '';
      ids.push((await client.startBackup({ zone: 'z1', host, domain: guest.name, settings: SLOWLY })).id);
    }
    const ledBy = (index: number): string[] => ids.filter((_id, at) => leads[at] === index);
    const agentOf = (id: string): AgentService => {
      const agent = agents[ids.indexOf(id) % 2];
      assert.ok(agent);
      return agent;
    };
    const third = clients[2];
    assert.ok(third);
    // Everybody watches at the third, which leads one of them.
    const moving = new Set<string>();
    const watched = ids.map((id) =>
      third.follow(id, ({ event }) => {
        if (event?.$case === 'stageProgress' && event.value.stage === Stage.STAGE_BLOCKJOB) moving.add(id);
        return undefined;
      }),
    );
    await until('All backups move, and are seen to', 30_000, () =>
      Promise.resolve(moving.size === ids.length || undefined),
    );

    const [victim] = ledBy(0);
    assert.ok(victim);
    const old = attachTo(agentOf(victim), victim, await epochOf(agentOf(victim), victim));
    await old.taken;

    const killed = Date.now();
    await controllers[0]?.kill();
    await takenOver(ledBy(0), agentOf, 1n);
    assert.ok(Date.now() - killed < TAKEN_OVER_MS, `${Date.now() - killed} ms`);
    // What the one that was killed had said is on its way still.
    old.write({ $case: 'pause', value: {} });
    assert.match(await old.refusal, /newer controller \(epoch 2\) has taken job/);

    const before = new Map<string, bigint>();
    for (const id of ids) before.set(id, await epochOf(agentOf(id), id));
    const stood = [...before].filter(([id]) => ledBy(1).includes(id));
    const pid = controllers[1]?.pid() ?? 0;
    process.kill(pid, 'SIGSTOP');
    try {
      const stopped = Date.now();
      for (const [id, epoch] of stood) await takenOver([id], agentOf, epoch);
      assert.ok(Date.now() - stopped < TAKEN_OVER_MS, `${Date.now() - stopped} ms`);
    } finally {
      process.kill(pid, 'SIGCONT');
    }

    // All are steered through the one that was away, whoever leads them.
    const second = clients[1];
    assert.ok(second);
    const { operations } = second;
    for (const operationId of ids) {
      const change = { $case: 'bandwidthLimitMibps', value: 0n } as const;
      await until('The limit is lifted', 15_000, () =>
        second
          .call(operations.updateOperation.bind(operations), { operationId, change })
          .catch(() => undefined),
      );
    }
    const followed = await Promise.all(watched);
    for (const each of followed) {
      succeeded(each);
      requireNoGaps(withoutProgress(each.events));
      assert.equal(count(each, 'accepted'), 1);
      assert.equal(count(each, 'completed'), 1);
      assert.ok(!each.events.some(({ event }) => event?.$case === 'paused'));
      // Whoever is asked later sees the same.
      const again = await second.follow(each.operation.id);
      assert.deepEqual(withoutProgress(again.events), withoutProgress(each.events));
    }
    // Each job ran once, on the agent that was told first.
    const jobs = await Promise.all(
      agents.map(({ stateDirectory }) => readdir(path.join(stateDirectory, 'jobs'))),
    );
    assert.deepEqual(jobs.flat().toSorted(), ids.toSorted());
    const { backups } = await second.call(second.backups.listBackups.bind(second.backups), {
      ...{ zone: 'z1', domain: '', pageSize: 0, pageToken: '', damaged: false },
    });
    assert.equal(backups.length, ids.length);
    succeeded(await second.verifyBackup({ backupId: followed[0]?.operation.backupId ?? '' }));

    // The one that was killed comes back, and finds nothing to do.
    await controllers[0]?.start();
    const { operation } = await holdfast.client.follow(victim);
    assert.equal(operation.state, OperationState.OPERATION_STATE_SUCCEEDED);
  });
});

async function createDatabase(stack: AsyncDisposableStack): Promise<string> {
  const postgres = stack.use(await startPostgres());
  const name = `holdfast_${randomUUID().replaceAll('-', '')}`;
  const client = new pg.Client(postgres.url('postgres'));
  await client.connect();
  try {
    await client.query(`create database ${name} template template0`);
  } finally {
    await client.end();
  }
  return postgres.url(name);
}

function count({ events }: Followed, kind: string): number {
  return events.filter(({ event }) => event?.$case === kind).length;
}

/** The epoch that the agent keeps of a job: that of the latest controller that started it or attached to it. */
async function epochOf({ stateDirectory }: AgentService, jobId: string): Promise<bigint> {
  return BigInt(await readFile(path.join(stateDirectory, 'jobs', jobId, 'epoch'), 'utf8'));
}

/** Waits until controllers with a larger epoch have attached to jobs. */
async function takenOver(
  jobIds: readonly string[],
  agentOf: (id: string) => AgentService,
  epoch: bigint,
): Promise<void> {
  for (const id of jobIds) {
    await until('Another controller attaches', TAKEN_OVER_MS, async () =>
      (await epochOf(agentOf(id), id)) > epoch ? true : undefined,
    );
  }
}

/** A stream as the job's controller has one, with its epoch. */
function attachTo(agent: AgentService, jobId: string, fencingEpoch: bigint) {
  const client = connectTo(AgentServiceClient, agent.address);
  const stream = client.takeBackup();
  const write = (command: Parameters<typeof controlOf>[0]) => stream.write(controlOf(command));
  write({ $case: 'attach', value: { jobId, afterSequence: 0n, fencingEpoch, credentials: undefined } });
  stream.resume();
  const taken = new Promise((resolve) => stream.once('metadata', resolve));
  const refusal = new Promise<string>((resolve) =>
    stream.once('error', (error) => {
      client.close();
      resolve(fromServiceError(error).message);
    }),
  );
  return { taken, refusal, write };
}

function controlOf(
  command: NonNullable<Extract<TakeBackupRequest['message'], { $case: 'control' }>['value']['command']>,
) {
  return TakeBackupRequest.fromPartial({ message: { $case: 'control', value: { command } } });
}
