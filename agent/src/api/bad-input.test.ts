import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { mkdir, mkdtempDisposable } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { inspect } from 'node:util';
import { status, type ClientDuplexStream } from '@grpc/grpc-js';
import fc from 'fast-check';
import type { Address } from '@holdfast/common/address.ts';
import { callUnary, connectTo } from '@holdfast/common/client.ts';
import { fromServiceError, HoldfastError } from '@holdfast/common/errors.ts';
import { silentLogger } from '@holdfast/common/logger.ts';
import { anyMessage } from '@holdfast/common/testing/anyMessage.ts';
import { frame, rawCall, type Ending } from '@holdfast/common/testing/rawCall.ts';
import {
  AgentServiceClient,
  AgentServiceService,
  DeleteBackupRequest,
  TakeBackupStart,
  type Control,
} from '@holdfast/proto/holdfast/agent/v1/agent.ts';
import { RepositoryType } from '@holdfast/proto/holdfast/v1/repository.ts';
import { startAgent, type RunningAgent } from '../agent.ts';

const RUNS = 25;
/** How long a stream that is not refused is listened to. */
const PATIENCE_MS = 300;
const UNCLEAR: readonly (number | undefined)[] = [status.INTERNAL, status.UNKNOWN];

/** What has tripped programs before. */
const NASTY = [
  "'; drop table jobs; --",
  '../../etc/passwd',
  'a\0b',
  '\ud800',
  '%s%n',
  '$(id)',
  'x'.repeat(200_000),
];

type Method = Parameters<typeof callUnary<object, object>>[0];
interface Start {
  readonly $case: 'start';
  readonly value: object;
}
type Message = Start | { readonly $case: 'control'; readonly value: Control } | undefined;
type Stream = ClientDuplexStream<{ message: Message }, unknown>;

describe('bad input to an agent', function () {
  this.timeout(120_000);
  const stack = new AsyncDisposableStack();
  let root: string;
  let socket: Address & { readonly kind: 'unix' };
  let agent: RunningAgent;
  let client: AgentServiceClient;

  before(async () => {
    root = stack.use(await mkdtempDisposable(join(tmpdir(), 'holdfast-bad-'))).path;
    socket = { kind: 'unix', path: join(root, 'a.sock') };
    agent = await startAgent({
      listen: [socket],
      zone: 'z1',
      hostName: 'h1',
      libvirtUri: 'test:///default',
      stateDirectory: join(root, 's'),
      runtimeDirectory: join(root, 'r'),
      scratchDirectory: join(root, 'x'),
      logger: silentLogger,
      logLevel: 'error',
    });
    stack.defer(() => agent.close());
    await mkdir(join(root, 'nas'));
    client = connectTo(AgentServiceClient, socket);
    stack.defer(() => {
      client.close();
    });
  });
  after(() => stack.disposeAsync());

  /** Paths lead nowhere but into the test's own directory. */
  const text = fc
    .oneof(
      fc.constantFrom('', 'z1', 'test', '/nas', '/nowhere', 'some/backup', 'zstd', '127.0.0.1:/x'),
      fc.constantFrom(...NASTY),
      fc.uuid(),
      fc.string({ unit: 'binary' }),
    )
    .map((given) => (given.startsWith('/') ? join(root, given.replaceAll('..', '')) : given));
  const number = fc.oneof(fc.constantFrom(0, 1, -1, 2 ** 31 - 1, -(2 ** 31)), fc.integer());
  const bigint = fc.oneof(
    fc.constantFrom(0n, -1n, 2n ** 53n, 2n ** 63n - 1n, -(2n ** 63n)),
    fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n }),
  );
  /** Kinds that are mounted would have the host mount what the test makes up. */
  const type = fc.constantFrom(
    -1,
    77,
    RepositoryType.REPOSITORY_TYPE_UNSPECIFIED,
    RepositoryType.REPOSITORY_TYPE_LOCAL,
  );
  const repository = fc.option(
    fc.record({
      ...{
        name: text,
        type,
        path: text,
        address: fc.constantFrom('', ...NASTY),
        mountOptions: fc.array(text),
      },
      ...{ repositoryId: fc.oneof(fc.constant(''), text), credentials: fc.constant(undefined) },
    }),
    { nil: undefined },
  );
  const zone = fc.oneof({ weight: 4, arbitrary: fc.constant('z1') }, { weight: 1, arbitrary: text });

  /** Any message, by what an empty one looks like. */
  function anyLike(empty: object): fc.Arbitrary<object> {
    const fields = Object.entries(empty).map(([name, value]: [string, unknown]) => [
      name,
      anyField(name, value),
    ]);
    return fc.record(Object.fromEntries(fields) as Record<string, fc.Arbitrary<unknown>>);
  }
  function anyField(name: string, value: unknown): fc.Arbitrary<unknown> {
    if (name === 'zone') return zone;
    if (name === 'repository') return repository;
    if (typeof value === 'string') return text;
    if (typeof value === 'number') return number;
    if (typeof value === 'bigint') return bigint;
    if (typeof value === 'boolean') return fc.boolean();
    if (Array.isArray(value)) return name === 'volumes' ? fc.array(text, { maxLength: 3 }) : fc.constant([]);
    if (name === 'header') return fc.option(header, { nil: undefined });
    if (name === 'options') return fc.option(anyLike(options), { nil: undefined });
    if (name === 'cloudstack') return fc.option(fc.record({ folder: text }), { nil: undefined });
    return fc.constant(value);
  }
  const header = fc.record({
    jobId: fc.oneof(fc.uuid(), text),
    zone,
    fencingEpoch: bigint,
    correlationId: text,
    host: text,
  });
  const options = { ...TakeBackupStart.fromPartial({ options: {} }).options };

  for (const [name, method] of Object.entries(AgentServiceService)) {
    if (method.requestStream) continue;
    it(`gets a clear answer from ${name}`, async () => {
      const call = answering(client, name, method.responseStream);
      const empty = method.requestDeserialize(Buffer.alloc(0));
      await fc.assert(
        fc.asyncProperty(anyLike(empty), async (request) => {
          await call(request).catch(clear);
        }),
        { numRuns: RUNS, examples: NASTY.map((word) => [everywhere(empty, word)]) },
      );
    });
  }

  const command: fc.Arbitrary<Control['command']> = fc.oneof(
    fc.constant(undefined),
    fc.record({
      $case: fc.constant('attach' as const),
      value: fc.record({
        ...{ jobId: fc.oneof(fc.uuid(), text), afterSequence: bigint, fencingEpoch: bigint },
        credentials: fc.constant(undefined),
      }),
    }),
    fc.record({ $case: fc.constant('setBandwidth' as const), value: fc.record({ limitMibps: bigint }) }),
    fc.constantFrom<Control['command']>(
      { $case: 'pause', value: {} },
      { $case: 'resume', value: {} },
      { $case: 'cancel', value: {} },
    ),
    fc.record({ $case: fc.constant('ack' as const), value: fc.record({ sequence: bigint }) }),
  );
  const ending = fc.constantFrom<Ending | 'neither'>('half-close', 'reset', 'neither');

  for (const [name, method] of Object.entries(AgentServiceService)) {
    if (!method.requestStream) continue;
    it(`gets clear answers on ${name}, however the stream goes`, async () => {
      const empty = method.requestDeserialize(
        // The field `start`, an empty message.
        Buffer.from([0x0a, 0x00]),
      ) as { message: Start };
      const message: fc.Arbitrary<Message> = fc.oneof(
        fc.constant(undefined),
        fc.record({ $case: fc.constant('start' as const), value: anyLike(empty.message.value) }),
        fc.record({ $case: fc.constant('control' as const), value: fc.record({ command }) }),
      );
      const open = (client as unknown as Record<string, () => Stream>)[name];
      assert.ok(open);
      await fc.assert(
        fc.asyncProperty(fc.array(message, { maxLength: 5 }), ending, async (messages, end) => {
          await converse(open.call(client), messages, end);
        }),
        { numRuns: RUNS },
      );
    });
  }

  it('is not led astray by a job id that is a path, nor by one field that is wrong in a start', async () => {
    const good = TakeBackupStart.fromPartial({
      header: { jobId: randomUUID(), zone: 'z1', fencingEpoch: 1n },
      backupId: randomUUID(),
      domain: 'no such domain',
      repository: { name: 'nas', type: RepositoryType.REPOSITORY_TYPE_LOCAL, path: join(root, 'nas') },
      options: {},
    });
    const wrong: [object, string][] = [
      [{ header: undefined }, 'INVALID_REQUEST'],
      ...NASTY.map((jobId): [object, string] => [{ header: { ...good.header, jobId } }, 'INVALID_REQUEST']),
      [{ header: { ...good.header, zone: 'z2' } }, 'ZONE_MISMATCH'],
      ...NASTY.map((backupId): [object, string] => [{ backupId }, 'INVALID_REQUEST']),
      [{ repository: undefined }, 'INVALID_REQUEST'],
      [{ options: { ...good.options, compression: 'lzma' } }, 'INVALID_REQUEST'],
      [{ options: { ...good.options, bandwidthLimitMibps: -1n } }, 'INVALID_REQUEST'],
    ];
    for (const [change, reason] of wrong) {
      const stream = client.takeBackup() as unknown as Stream;
      const error = await converse(stream, [{ $case: 'start', value: { ...good, ...change } }], 'half-close');
      assert.equal(error?.reason, reason, inspect(change));
    }
    assert.deepEqual(await jobs(), []);
  });

  it('answers bytes that are no messages, and streams that are reset, as clearly', async () => {
    const methods = Object.values(AgentServiceService).map((method) => method.path);
    const bytes = fc.uint8Array({ maxLength: 40 });
    await fc.assert(
      fc.asyncProperty(
        fc.constantFrom(...methods),
        fc.array(
          fc.oneof(
            bytes.map((each) => frame(each)),
            bytes.map((each) => frame(each, each.length + 1)),
            bytes.map((each) => frame(each, each.length, true)),
          ),
          {
            maxLength: 3,
          },
        ),
        fc.constantFrom<Ending>('half-close', 'reset'),
        async (path, chunks, end) => {
          const code = await rawCall(socket, path, chunks, end, { 'grpc-encoding': 'gzip' });
          assert.ok(!UNCLEAR.includes(code), `${path}: ${code}`);
          if (end === 'half-close') assert.notEqual(code, undefined, path);
        },
      ),
      { numRuns: 4 * RUNS },
    );
  });

  it('answers messages of any shape as clearly', async () => {
    const methods = Object.values(AgentServiceService).map((method) => method.path);
    await fc.assert(
      fc.asyncProperty(fc.constantFrom(...methods), anyMessage(text), async (path, message) => {
        const code = await rawCall(socket, path, [frame(message)], 'half-close');
        assert.ok(code !== undefined && !UNCLEAR.includes(code), `${path}: ${code}`);
      }),
      { numRuns: 8 * RUNS },
    );
  });

  it('leaves the agent as it was', async () => {
    const answer = await callUnary(
      client.getHost.bind(client),
      { domain: '', withoutDomains: true },
      { correlationId: 'test' },
    );
    assert.equal(answer.name, 'h1');
    assert.deepEqual(
      await callUnary(client.deleteBackup.bind(client), DeleteBackupRequest.fromPartial({ zone: 'z2' }), {
        correlationId: 'test',
      }).catch((error: unknown) => (error as HoldfastError).reason),
      'ZONE_MISMATCH',
    );
    await jobs();
  });

  async function jobs() {
    return (await callUnary(client.listJobs.bind(client), {}, { correlationId: 'test' })).jobs;
  }
});

/** Calls a method that takes one message, and waits for its answer, which may be a stream. */
function answering(
  client: AgentServiceClient,
  name: string,
  isStream: boolean,
): (request: object) => Promise<unknown> {
  const methods = client as unknown as Record<string, Method & ((request: object) => AsyncIterable<unknown>)>;
  const method = methods[name]?.bind(client);
  assert.ok(method);
  return (request) =>
    isStream
      ? Array.fromAsync(method(request))
      : callUnary(method, request, { correlationId: 'test', deadlineMs: 60_000 });
}

/** The request with a text in every field that takes one, but for the zone, which would keep all from being looked at. */
function everywhere(empty: object, word: string): object {
  return Object.fromEntries(
    Object.entries(empty).map(([name, value]: [string, unknown]) => [
      name,
      name === 'zone' ? 'z1' : typeof value === 'string' ? word : value,
    ]),
  );
}

/** Sends messages and gives the error that the stream ends with; asserts that it is a clear one. */
async function converse(
  stream: Stream,
  messages: readonly Message[],
  end: Ending | 'neither',
): Promise<HoldfastError | undefined> {
  const ended = new Promise<Error | undefined>((resolve) => {
    stream.on('data', () => undefined);
    stream.on('error', resolve);
    stream.on('end', () => setImmediate(resolve, undefined));
  });
  for (const message of messages) stream.write({ message });
  if (end === 'half-close') stream.end();
  if (end === 'reset') setImmediate(() => stream.cancel());
  const timer = setTimeout(() => stream.cancel(), end === 'half-close' ? 20_000 : PATIENCE_MS);
  try {
    const error = await ended;
    return error && clear(error);
  } finally {
    clearTimeout(timer);
  }
}

function clear(thrown: unknown): HoldfastError {
  const error = fromServiceError(thrown);
  if (!(error instanceof HoldfastError)) throw error;
  assert.ok(!UNCLEAR.includes(error.code), `${error.reason}: ${error.message}`);
  return error;
}
