import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import type { ClientDuplexStream } from '@grpc/grpc-js';
import { connectTo } from '@holdfast/common/client.ts';
import {
  AgentServiceClient,
  TakeBackupRequest,
  type Control,
  type TakeBackupResponse,
} from '@holdfast/proto/holdfast/agent/v1/agent.ts';
import type { OperationEvent } from '@holdfast/proto/holdfast/v1/event.ts';
import { useHoldfast } from '../harness/fixture.ts';
import type { Holdfast } from '../harness/holdfast.ts';
import { requireNoGaps, withoutProgress } from './support/events.ts';
import { busyGuest } from './support/guests.ts';

type Stream = ClientDuplexStream<TakeBackupRequest, TakeBackupResponse>;

describe('the stream to an agent', () => {
  const fixture = useHoldfast({ guest: busyGuest });
  let agent: AgentServiceClient;
  before(() => {
    agent = connectTo(AgentServiceClient, fixture.holdfast.agent.address);
  });
  after(() => agent.close());

  it('may be half-closed: the job goes on and its events still come', async () => {
    const jobId = randomUUID();
    const stream = begin(agent, startOf(fixture.holdfast, fixture.guest.uuid, jobId, 0n));
    stream.end();
    const events = await read(stream);
    requireNoGaps(events);
    assert.equal(events.at(-1)?.event?.$case, 'completed');
  });

  it('may break: the job goes on, and is attached to again after any event', async () => {
    const jobId = randomUUID();
    const start = startOf(fixture.holdfast, fixture.guest.uuid, jobId, 8n);
    const first = begin(agent, start);
    const seen = await read(first, ({ event }) => event?.$case === 'stageProgress');
    first.cancel();
    const last = seen.at(-1)?.sequence ?? 0n;

    const second = begin(
      agent,
      controlOf({
        $case: 'attach',
        value: { jobId, afterSequence: last, fencingEpoch: 0n, credentials: undefined },
      }),
    );
    second.write(controlOf({ $case: 'setBandwidth', value: { limitMibps: 0n } }));
    const rest = await read(second);
    requireNoGaps([...withoutProgress(seen), ...withoutProgress(rest)]);
    assert.equal(rest.at(-1)?.event?.$case, 'completed');
    assert.ok(rest.some(({ event }) => event?.$case === 'bandwidthApplied' && event.value.limitMibps === 0n));

    // A second start is an attach from the beginning: nothing is done twice.
    const third = await read(begin(agent, start));
    assert.deepEqual(withoutProgress(third), [...withoutProgress(seen), ...withoutProgress(rest)]);
  });

  it('obeys no controller that was replaced, and knows no strange job', async () => {
    const jobId = randomUUID();
    const start = startOf(fixture.holdfast, fixture.guest.uuid, jobId, 8n, 7n);
    const newer = begin(agent, start);
    await read(newer, ({ event }) => event?.$case === 'stageStarted');
    const attach = (job: string, fencingEpoch: bigint) =>
      controlOf({
        $case: 'attach',
        value: { jobId: job, afterSequence: 0n, fencingEpoch, credentials: undefined },
      });
    await assert.rejects(read(begin(agent, attach(jobId, 6n))), /newer controller/);
    await assert.rejects(read(begin(agent, attach(randomUUID(), 8n))), /knows no job/);
    newer.cancel();
    // Nor does an agent that has been started again.
    await fixture.holdfast.agent.kill();
    await fixture.holdfast.agent.start();
    await assert.rejects(read(begin(agent, attach(jobId, 6n))), /newer controller/);

    const newest = begin(agent, attach(jobId, 8n));
    newest.write(controlOf({ $case: 'cancel', value: {} }));
    const end = (await read(newest)).at(-1)?.event;
    assert.equal(end?.$case === 'failed' ? end.value.code : undefined, 1);
  });
});

function begin(agent: AgentServiceClient, message: TakeBackupRequest): Stream {
  const stream = agent.takeBackup();
  stream.write(message);
  return stream;
}

/** Events until the last one, or until one that is enough. Half-closes at the end, as a reader of a whole job does. */
async function read(
  stream: Stream,
  isEnough?: (event: OperationEvent) => boolean,
): Promise<OperationEvent[]> {
  const events: OperationEvent[] = [];
  const done = new AbortController();
  stream.on('data', ({ event }: TakeBackupResponse) => {
    if (event === undefined || done.signal.aborted) return;
    events.push(event);
    const isLast = event.event?.$case === 'completed' || event.event?.$case === 'failed';
    if (isLast) stream.end();
    if (isLast || isEnough?.(event) === true) done.abort();
  });
  const failure = new Promise<never>((_resolve, reject) => stream.once('error', reject));
  failure.catch(() => undefined);
  // A stream that is cancelled later says so to nobody.
  stream.on('error', () => undefined);
  await Promise.race([once(done.signal, 'abort'), failure]);
  return events;
}

function controlOf(command: NonNullable<Control['command']>): TakeBackupRequest {
  return { message: { $case: 'control', value: { command } } };
}

function startOf(
  holdfast: Holdfast,
  domain: string,
  jobId: string,
  bandwidthLimitMibps: bigint,
  fencingEpoch = 0n,
): TakeBackupRequest {
  return TakeBackupRequest.fromPartial({
    message: {
      $case: 'start',
      value: {
        header: { jobId, zone: 'z1', fencingEpoch, correlationId: 'by-hand', host: '' },
        backupId: randomUUID(),
        domain,
        repository: { name: 'nas', path: holdfast.repository(), type: 1 },
        options: { bandwidthLimitMibps, quiesce: 'off' },
      },
    },
  });
}
