import assert from 'node:assert/strict';
import { once } from 'node:events';
import { mkdtempDisposable } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { status, type ClientReadableStream } from '@grpc/grpc-js';
import { OperationEvent } from '@holdfast/proto/holdfast/v1/event.ts';
import {
  OperationServiceClient,
  OperationServiceService,
  type OperationServiceServer,
  type WatchOperationResponse,
} from '@holdfast/proto/holdfast/v1/operation.ts';
import type { Address } from './address.ts';
import { serverStream, unary } from './call.ts';
import { callUnary, connectTo } from './client.ts';
import { fromServiceError, HoldfastError } from './errors.ts';
import { DEFAULT_FRONT, openFront, type Front } from './front.ts';
import type { Limits } from './gate.ts';
import { createRateLimit } from './limits/rate.ts';
import { silentLogger } from './logger.ts';
import { makeTestPki, type TestPki } from './pki/testing.ts';
import type { RunningServer } from './server.ts';
import { frame, rawCall } from './testing/rawCall.ts';

const CALLS_PER_SECOND = 50;
const limits: Limits = { callsPerSecond: CALLS_PER_SECOND, streamsPerCaller: 2, streams: 3 };
const GET = '/holdfast.v1.OperationService/GetOperation';
/** Far more than HTTP/2 takes before it waits for the reader. */
const MANY = 5_000;
const PADDING = 'x'.repeat(2_000);

describe('the gate', function () {
  this.timeout(20_000);
  const stack = new AsyncDisposableStack();
  let front: Front;
  let servers: readonly RunningServer[];
  let socket: Address & { readonly kind: 'unix' };
  let port: Address;
  let metricsUrl: string;
  let pki: TestPki;
  /** Events that a handler was asked for. */
  let made: number;

  before(async () => {
    pki = stack.use(await makeTestPki());
    const directory = stack.use(await mkdtempDisposable(join(tmpdir(), 'holdfast-gate-')));
    socket = { kind: 'unix', path: join(directory.path, 's.sock') };
    const lines: Record<string, unknown>[] = [];
    const logger = {
      ...silentLogger,
      info: (message: string, meta = {}) => lines.push({ message, ...meta }),
    };
    front = await openFront(
      {
        ...DEFAULT_FRONT,
        limits,
        tlsDirectory: await pki.issue(['holdfast://controller']),
        metricsListen: { kind: 'tcp', host: '127.0.0.1', port: 0 },
      },
      logger,
    );
    stack.defer(() => front.close());
    metricsUrl = `http://${String(lines.find((line) => line['message'] === 'metrics')?.['address'])}/metrics`;
    const implementation: Pick<OperationServiceServer, 'getOperation' | 'watchOperation'> = {
      getOperation: unary(silentLogger, () => Promise.resolve({ operation: undefined })),
      watchOperation: serverStream(silentLogger, async function* ({ operationId }, { signal }) {
        if (operationId === 'waits') await once(signal, 'abort');
        for (; made < MANY; made++)
          yield {
            event: OperationEvent.fromPartial({
              sequence: BigInt(made),
              event: { $case: 'warning', value: { message: PADDING } },
            }),
            goodbye: undefined,
          };
      }),
    };
    const name = 'holdfast.v1.OperationService';
    servers = await front.serve(
      [socket, { kind: 'tcp', host: '127.0.0.1', port: 0 }],
      [{ name, definition: OperationServiceService, implementation }],
      { admit: () => undefined },
    );
    stack.defer(async () => {
      await Promise.all(servers.map((server) => server.close(0)));
    });
    const [, tcp] = servers;
    assert.ok(tcp);
    port = tcp.address;
  });
  after(() => stack.disposeAsync());
  beforeEach(() => {
    made = 0;
  });

  function here(): OperationServiceClient {
    const client = connectTo(OperationServiceClient, socket);
    stack.defer(() => {
      client.close();
    });
    return client;
  }
  async function somebody(): Promise<OperationServiceClient> {
    const certificates = await pki.certificates(['holdfast://viewer']);
    const client = connectTo(OperationServiceClient, port, {
      certificates,
      expected: { role: 'controller', zone: undefined },
    });
    stack.defer(() => {
      client.close();
    });
    return client;
  }
  const get = (client: OperationServiceClient, operationId = '') =>
    callUnary(
      client.getOperation.bind(client),
      { operationId },
      { correlationId: 'test', deadlineMs: 10_000 },
    );

  it('turns a caller away who calls too often, says so, and nobody else', async () => {
    const [hasty, other] = [await somebody(), await somebody()];
    const answers = await Promise.allSettled(Array.from({ length: 4 * CALLS_PER_SECOND }, () => get(hasty)));
    const refusals = answers.flatMap((answer) =>
      answer.status === 'rejected' ? [answer.reason as HoldfastError] : [],
    );
    assert.ok(refusals.length > 0 && refusals.length <= 2 * CALLS_PER_SECOND, `${refusals.length} refused`);
    for (const refusal of refusals) {
      assert.equal(refusal.reason, 'RATE_LIMITED');
      assert.equal(refusal.code, status.RESOURCE_EXHAUSTED);
      assert.match(refusal.message, /More than 50 calls a second come from test \d+ \(holdfast:\/\/viewer\)/);
    }
    await get(other);
    await until(() =>
      get(hasty).then(
        () => true,
        () => false,
      ),
    );
  });

  it('bounds the streams of each caller and of all, and takes new ones when old ones end', async () => {
    const watchers = [await somebody(), await somebody()] as const;
    const open = (client: OperationServiceClient) =>
      client.watchOperation({ operationId: 'waits', afterSequence: 0n });
    const first = [open(watchers[0]), open(watchers[0])];
    for (const stream of first) stream.on('error', () => undefined);
    await until(async () => /holdfast_rpc_open_streams 2/.test(await metrics()));
    const tooMany = await failure(open(watchers[0]));
    assert.equal(tooMany.reason, 'TOO_MANY_STREAMS');
    assert.match(tooMany.message, /2 of test \d+ .*, or 3 in all/);
    const third = open(watchers[1]);
    third.on('error', () => undefined);
    await until(async () => /holdfast_rpc_open_streams 3/.test(await metrics()));
    assert.equal((await failure(open(watchers[1]))).reason, 'TOO_MANY_STREAMS');

    for (const stream of [...first, third]) stream.cancel();
    await until(async () => /holdfast_rpc_open_streams 0/.test(await metrics()));
    const again = open(watchers[0]);
    again.on('error', () => undefined);
    await until(async () => /holdfast_rpc_open_streams 1/.test(await metrics()));
    again.cancel();
  });

  it('refuses a message that is too large, and says so', async () => {
    const error: unknown = await get(here(), 'x'.repeat(4 * 1024 * 1024)).catch((thrown: unknown) => thrown);
    assert.ok(error instanceof HoldfastError);
    assert.equal(error.reason, 'MESSAGE_TOO_LARGE', error.message);
    assert.match(error.message, /larger than max/);
  });

  it('answers INVALID_ARGUMENT to bytes that are no message', async () => {
    for (const bytes of ['ffffffff', '0a05', '0d'])
      assert.equal(
        await rawCall(socket, GET, [frame(Buffer.from(bytes, 'hex'))], 'half-close'),
        status.INVALID_ARGUMENT,
        bytes,
      );
  });

  it('makes no more for a watcher who does not read than fits into a small buffer', async () => {
    const stream = here().watchOperation({ operationId: 'all', afterSequence: 0n });
    stream.on('error', () => undefined);
    const events: WatchOperationResponse[] = [];
    await once(stream, 'readable');
    stream.pause();
    let before = -1;
    await until(async () => {
      const still = before === made;
      before = made;
      await sleep(100);
      return still && made > 0;
    });
    assert.ok(made < MANY / 10, `${made} events were made for nobody`);
    stream.on('data', (response: WatchOperationResponse) => events.push(response));
    stream.resume();
    await once(stream, 'end');
    assert.equal(events.length, MANY);
    assert.ok(events.every(({ event }, index) => event?.sequence === BigInt(index)));
  });

  it('shows calls, refusals, streams and the end of the certificate in metrics, on loopback only', async () => {
    await until(() =>
      get(here()).then(
        () => true,
        () => false,
      ),
    );
    const text = await metrics();
    assert.match(
      text,
      /holdfast_rpc_handled_total\{method="holdfast.v1.OperationService\/GetOperation",code="OK"\} \d/,
    );
    assert.match(text, /holdfast_rpc_refused_total\{reason="RATE_LIMITED"\} \d/);
    const [, seconds] =
      /holdfast_certificate_expiry_timestamp_seconds\{certificate="own"\} (\d+)/.exec(text) ?? [];
    assert.equal(
      Number(seconds),
      Math.floor((front.certificates?.current().notAfter.getTime() ?? 0) / 1_000),
    );
    await assert.rejects(
      openFront({ ...DEFAULT_FRONT, metricsListen: { kind: 'tcp', host: '0.0.0.0', port: 0 } }, silentLogger),
      { reason: 'INVALID_REQUEST' },
    );
  });

  async function metrics(): Promise<string> {
    return (await fetch(metricsUrl)).text();
  }
});

describe('a rate limit', () => {
  it('gives two seconds at once, then so many a second, to each', () => {
    let now = 0;
    const rate = createRateLimit(10, () => now);
    const taken = (caller: string) =>
      Array.from({ length: 100 }, () => rate.take(caller)).filter(Boolean).length;
    assert.equal(taken('a'), 20);
    assert.equal(taken('b'), 20);
    now = 500;
    assert.equal(taken('a'), 5);
    now = 100_000;
    assert.equal(taken('a'), 20);
  });

  it('remembers no more callers than it has room for', () => {
    const rate = createRateLimit(1, () => 0);
    for (let index = 0; index < 20_000; index++) assert.ok(rate.take(String(index)));
    assert.equal(Array.from({ length: 5 }, () => rate.take('19999')).filter(Boolean).length, 1);
  });
});

function failure(stream: ClientReadableStream<WatchOperationResponse>): Promise<HoldfastError> {
  return new Promise((resolve, reject) => {
    stream.on('data', () => undefined);
    stream.on('error', (error) => {
      const known = fromServiceError(error);
      if (known instanceof HoldfastError) resolve(known);
      else reject(known);
    });
    stream.on('end', () => setImmediate(reject, new Error('it ended well')));
  });
}

async function until(holds: () => boolean | Promise<boolean>): Promise<void> {
  const deadline = Date.now() + 15_000;
  while (!(await holds())) {
    if (Date.now() > deadline) throw new Error('the condition did not come true in time');
    await sleep(20);
  }
}
