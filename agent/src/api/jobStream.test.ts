import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { mkdtempDisposable } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Server, ServerCredentials, status, type ServiceError } from '@grpc/grpc-js';
import { fromServiceError } from '@holdfast/common/errors.ts';
import { connectTo } from '@holdfast/common/client.ts';
import { silentLogger } from '@holdfast/common/logger.ts';
import {
  AgentServiceClient,
  AgentServiceService,
  type TakeBackupRequest,
  type TakeBackupResponse,
} from '@holdfast/proto/holdfast/agent/v1/agent.ts';
import { OperationEvent } from '@holdfast/proto/holdfast/v1/event.ts';
import type { Jobs } from '../jobs/jobs.ts';
import { jobStream } from './jobStream.ts';
import type { AgentParts } from './service.ts';

describe("a job's stream", () => {
  it('says goodbye and ends with UNAVAILABLE when the agent stops, and the job hears nothing of it', async () => {
    const stopping = new AbortController();
    const commands: unknown[] = [];
    /** A job that is as far as its third event and stays there. */
    const jobs: FollowedJobs = {
      requireKnown: () => Promise.resolve(),
      remember: () => undefined,
      command: (_id, command) => Promise.resolve(void commands.push(command)),
      follow: async function* (_id, after, signal) {
        for (let sequence = after + 1n; sequence <= 3n; sequence++)
          yield OperationEvent.fromPartial({ sequence });
        await once(signal, 'abort');
      },
    };
    await using served = await serveJobs(jobs, stopping.signal);
    const { client } = served;
    const heard: string[] = [];
    const attachedTo = (after: bigint) => {
      const stream = client.takeBackup();
      stream.on('data', ({ event, goodbye }: TakeBackupResponse) => {
        heard.push(
          event === undefined ? `goodbye after ${goodbye?.resumeAfterSequence}` : `event ${event.sequence}`,
        );
        if (event?.sequence === 3n) stopping.abort();
      });
      const ended = once(stream, 'error') as Promise<[ServiceError]>;
      stream.write(attachTo(after));
      return ended;
    };
    const [error] = await attachedTo(1n);
    assert.equal(error.code, status.UNAVAILABLE);
    assert.match(fromServiceError(error).message, /The job goes on/);
    assert.deepEqual(heard, ['event 2', 'event 3', 'goodbye after 3']);
    assert.deepEqual(commands, []);
    // One that comes too late hears the same.
    assert.equal((await attachedTo(3n))[0].code, status.UNAVAILABLE);
  });

  it('ends with the job, at once when its peer has said all before', async () => {
    const jobs: FollowedJobs = {
      requireKnown: () => Promise.resolve(),
      remember: () => undefined,
      command: () => Promise.resolve(),
      follow: async function* (_id, after, signal) {
        // When the end of what the peer says has come.
        await sleep(200, undefined, { signal });
        for (let sequence = after + 1n; sequence <= 3n; sequence++)
          yield OperationEvent.fromPartial({ sequence });
      },
    };
    await using served = await serveJobs(jobs, new AbortController().signal);
    const stream = served.client.takeBackup();
    const begun = performance.now();
    stream.write(attachTo(2n));
    stream.end();
    const seen = await Array.fromAsync(stream as AsyncIterable<TakeBackupResponse>);
    assert.deepEqual(
      seen.map(({ event }) => event?.sequence),
      [3n],
    );
    assert.ok(performance.now() - begun < 4_000, `${performance.now() - begun} ms`);
  });
});

type FollowedJobs = Pick<Jobs, 'requireKnown' | 'remember' | 'follow' | 'command'>;

function attachTo(afterSequence: bigint): TakeBackupRequest {
  const value = { jobId: randomUUID(), afterSequence, fencingEpoch: 1n, credentials: undefined };
  return { message: { $case: 'control', value: { command: { $case: 'attach', value } } } };
}

/** Serves the streams of jobs, and a client for them. */
async function serveJobs(
  jobs: FollowedJobs,
  stopping: AbortSignal,
): Promise<AsyncDisposable & { readonly client: AgentServiceClient }> {
  await using stack = new AsyncDisposableStack();
  const directory = stack.use(await mkdtempDisposable(join(tmpdir(), 'holdfast-stream-')));
  const path = join(directory.path, 's.sock');
  const epochs = { accept: () => Promise.resolve(), require: () => Promise.resolve() };
  const parts = { zone: 'z', jobs, epochs, stopping, logger: silentLogger } as unknown as AgentParts;
  const server = new Server();
  server.addService(AgentServiceService, { takeBackup: jobStream(parts, 'TakeBackup', () => '') });
  await new Promise<void>((resolve, reject) => {
    server.bindAsync(`unix:${path}`, ServerCredentials.createInsecure(), (error) => {
      if (error === null) resolve();
      else reject(error);
    });
  });
  stack.defer(() => {
    server.forceShutdown();
  });
  const client = connectTo(AgentServiceClient, { kind: 'unix', path });
  stack.defer(() => {
    client.close();
  });
  const kept = stack.move();
  return { client, [Symbol.asyncDispose]: () => kept.disposeAsync() };
}
