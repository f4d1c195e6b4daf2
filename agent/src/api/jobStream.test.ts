import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { mkdtempDisposable } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
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
    await using directory = await mkdtempDisposable(join(tmpdir(), 'holdfast-stream-'));
    const path = join(directory.path, 's.sock');
    const stopping = new AbortController();
    const commands: unknown[] = [];
    /** A job that is as far as its third event and stays there. */
    const jobs: Pick<Jobs, 'requireKnown' | 'remember' | 'follow' | 'command'> = {
      requireKnown: () => Promise.resolve(),
      remember: () => undefined,
      command: (_id, command) => Promise.resolve(void commands.push(command)),
      follow: async function* (_id, after, signal) {
        for (let sequence = after + 1n; sequence <= 3n; sequence++)
          yield OperationEvent.fromPartial({ sequence });
        await once(signal, 'abort');
      },
    };
    const epochs = { accept: () => Promise.resolve(), require: () => Promise.resolve() };
    const parts = {
      zone: 'z',
      jobs,
      epochs,
      stopping: stopping.signal,
      logger: silentLogger,
    } as unknown as AgentParts;
    const server = new Server();
    server.addService(AgentServiceService, {
      takeBackup: jobStream(parts, 'TakeBackup', () => ''),
    });
    await new Promise<void>((resolve, reject) => {
      server.bindAsync(`unix:${path}`, ServerCredentials.createInsecure(), (error) => {
        if (error === null) resolve();
        else reject(error);
      });
    });
    const client = connectTo(AgentServiceClient, { kind: 'unix', path });
    const heard: string[] = [];
    const attachedTo = (after: bigint) => {
      const stream = client.takeBackup();
      const attach = { jobId: randomUUID(), afterSequence: after, fencingEpoch: 1n, credentials: undefined };
      const request: TakeBackupRequest = {
        message: { $case: 'control', value: { command: { $case: 'attach', value: attach } } },
      };
      stream.on('data', ({ event, goodbye }: TakeBackupResponse) => {
        heard.push(
          event === undefined ? `goodbye after ${goodbye?.resumeAfterSequence}` : `event ${event.sequence}`,
        );
        if (event?.sequence === 3n) stopping.abort();
      });
      const ended = once(stream, 'error') as Promise<[ServiceError]>;
      stream.write(request);
      return ended;
    };
    try {
      const [error] = await attachedTo(1n);
      assert.equal(error.code, status.UNAVAILABLE);
      assert.match(fromServiceError(error).message, /The job goes on/);
      assert.deepEqual(heard, ['event 2', 'event 3', 'goodbye after 3']);
      assert.deepEqual(commands, []);
      // One that comes too late hears the same.
      assert.equal((await attachedTo(3n))[0].code, status.UNAVAILABLE);
    } finally {
      client.close();
      server.forceShutdown();
    }
  });
});
