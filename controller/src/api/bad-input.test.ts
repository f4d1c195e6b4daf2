import assert from 'node:assert/strict';
import { status, type Client, type ServiceDefinition } from '@grpc/grpc-js';
import fc from 'fast-check';
import type { Address } from '@holdfast/common/address.ts';
import { fromServiceError, HoldfastError } from '@holdfast/common/errors.ts';
import { anyMessage } from '@holdfast/common/testing/anyMessage.ts';
import { frame, rawCall, type Ending } from '@holdfast/common/testing/rawCall.ts';
import { BackupServiceService } from '@holdfast/proto/holdfast/v1/backup.ts';
import { HostServiceService } from '@holdfast/proto/holdfast/v1/host.ts';
import { LeftoverServiceService } from '@holdfast/proto/holdfast/v1/leftover.ts';
import { KeyServiceService } from '@holdfast/proto/holdfast/v1/key.ts';
import { OperationServiceService, OperationState } from '@holdfast/proto/holdfast/v1/operation.ts';
import { RepositoryServiceService } from '@holdfast/proto/holdfast/v1/repository.ts';
import { StatisticsServiceService } from '@holdfast/proto/holdfast/v1/statistics.ts';
import { ZoneServiceService } from '@holdfast/proto/holdfast/v1/zone.ts';
import { happening } from '../testing/fake-agent.ts';
import { ask, jobOf, reaches, startLab, takeBackup, type Lab } from '../testing/lab.ts';
import { describeOnBothStores } from '../testing/stores.ts';

const FUZZ_DEADLINE_MS = 120_000;
const RUNS_PER_METHOD = 30;

const services: readonly (readonly [keyof Lab['clients'], ServiceDefinition])[] = [
  ['backups', BackupServiceService],
  ['operations', OperationServiceService],
  ['zones', ZoneServiceService],
  ['hosts', HostServiceService],
  ['repositories', RepositoryServiceService],
  ['keys', KeyServiceService],
  ['statistics', StatisticsServiceService],
  ['leftovers', LeftoverServiceService],
];

const UNCLEAR: readonly (number | undefined)[] = [status.INTERNAL, status.UNKNOWN, undefined];

/** What has tripped programs before. */
const NASTY = ["'; drop table zones; --", '../../etc/passwd', 'a\0b', '\ud800', '%s%n', 'x'.repeat(100_000)];

/** That, what is there, and anything. */
const text = fc.oneof(
  fc.constantFrom('', 'z1', 'h1', 'r1', 'vm', '/srv/r1', 'nas.backup.bandwidth.limit.mbps', '127.0.0.1:1'),
  fc.constantFrom(...NASTY),
  fc.uuid(),
  fc.string({ unit: 'binary' }),
);
const number = fc.oneof(fc.constantFrom(0, 1, -1, 2 ** 31 - 1, -(2 ** 31)), fc.integer());
const bigint = fc.oneof(
  fc.constantFrom(0n, -1n, 2n ** 53n, 2n ** 63n - 1n, -(2n ** 63n)),
  fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n }),
);

/** Any request, by what an empty one looks like; what may be absent is. */
function anyLike(empty: object): fc.Arbitrary<object> {
  const fields: Record<string, fc.Arbitrary<unknown>> = {};
  for (const [name, value] of Object.entries(empty) as [string, unknown][]) {
    if (typeof value === 'string') fields[name] = text;
    else if (typeof value === 'number') fields[name] = number;
    else if (typeof value === 'bigint') fields[name] = bigint;
    else if (typeof value === 'boolean') fields[name] = fc.boolean();
    else if (Array.isArray(value)) fields[name] = name === 'states' ? fc.array(number) : fc.array(text);
    else if (name === 'values' || name === 'settings')
      fields[name] = fc.dictionary(text, text, { maxKeys: 3 });
    else fields[name] = fc.constant(value);
  }
  return fc.record(fields);
}

/** The request with a text in every field that takes one. */
function everywhere(empty: object, word: string): object {
  return Object.fromEntries(
    Object.entries(empty).map(([name, value]: [string, unknown]) => [
      name,
      typeof value === 'string' ? word : value,
    ]),
  );
}

describeOnBothStores('bad input', function (kind) {
  this.timeout(FUZZ_DEADLINE_MS);
  let lab: Lab;
  /** One that has ended, so that nothing is in use. */
  let operationId: string;
  before(async () => {
    lab = await startLab(kind);
    const agent = await lab.furnish();
    const { id } = await takeBackup(lab);
    operationId = id;
    const job = await jobOf(agent, id);
    job.emit(happening.failed(new HoldfastError('CHECK_FAILED', 'damaged')));
    await reaches(lab, id, OperationState.OPERATION_STATE_FAILED);
  });
  after(() => lab.close());

  for (const [name, definition] of services) {
    for (const [method, { requestDeserialize, requestStream, responseStream }] of Object.entries(
      definition,
    )) {
      if (requestStream || responseStream) continue;
      it(`gets a clear answer from ${name}.${method}`, async () => {
        const client = lab.clients[name] as unknown as Client & Record<string, Parameters<typeof ask>[0]>;
        const call = client[method];
        assert.ok(call);
        const empty = requestDeserialize(Buffer.alloc(0)) as object;
        await fc.assert(
          fc.asyncProperty(anyLike(empty), async (request) => {
            try {
              await ask(call.bind(client), request);
            } catch (error) {
              if (!(error instanceof HoldfastError)) throw error;
              assert.notEqual(error.reason, 'INTERNAL', error.message);
            }
          }),
          { numRuns: RUNS_PER_METHOD, examples: NASTY.map((word) => [everywhere(empty, word)]) },
        );
      });
    }
  }

  it('gets a clear answer from a watch, however the stream goes', async () => {
    const { operations } = lab.clients;
    const request = fc.record({
      operationId: fc.oneof(fc.constant(operationId), text),
      afterSequence: fc.oneof(fc.constant(0n), bigint),
    });
    await fc.assert(
      fc.asyncProperty(request, fc.nat({ max: 20 }), async (asked, waitMs) => {
        const stream = operations.watchOperation(asked);
        const ended = new Promise<Error | undefined>((resolve) => {
          stream.on('data', () => undefined);
          stream.on('error', resolve);
          stream.on('end', () => setImmediate(resolve, undefined));
        });
        setTimeout(() => {
          stream.cancel();
        }, waitMs);
        const error = fromServiceError((await ended) ?? new HoldfastError('CANCELLED', ''));
        assert.ok(error instanceof HoldfastError && error.reason !== 'INTERNAL', error.message);
      }),
      { numRuns: RUNS_PER_METHOD },
    );
  });

  it('gets a clear answer from a rescan', async () => {
    const { repositories } = lab.clients;
    const request = fc.record({ name: fc.oneof(fc.constant('r1'), text), dryRun: fc.boolean() });
    await fc.assert(
      fc.asyncProperty(request, async (asked) => {
        const stream = repositories.rescanRepository(asked) as AsyncIterable<unknown>;
        const error = await Array.fromAsync(stream).then(() => undefined, fromServiceError);
        if (error === undefined) return;
        assert.ok(error instanceof HoldfastError && error.reason !== 'INTERNAL', error.message);
      }),
      { numRuns: RUNS_PER_METHOD },
    );
  });

  it('answers bytes that are no messages, and streams that are reset, as clearly', async () => {
    const paths = services.flatMap(([, definition]) => Object.values(definition).map(({ path }) => path));
    const gzip = { 'grpc-encoding': 'gzip' };
    const bytes = fc.uint8Array({ maxLength: 40 });
    const framed = bytes.map((each) => frame(each));
    const cutShort = bytes.map((each) => frame(each, each.length + 1));
    const compressed = bytes.map((each) => frame(each, each.length, true));
    await fc.assert(
      fc.asyncProperty(
        fc.constantFrom(...paths),
        fc.array(fc.oneof(framed, cutShort, compressed), { maxLength: 3 }),
        fc.constantFrom<Ending>('half-close', 'reset'),
        async (path, chunks, end) => {
          const code = await rawCall(lab.address as Address & { kind: 'unix' }, path, chunks, end, gzip);
          assert.ok(code !== status.INTERNAL && code !== status.UNKNOWN, `${path}: ${code}`);
          if (end === 'half-close') assert.notEqual(code, undefined, path);
        },
      ),
      { numRuns: 4 * RUNS_PER_METHOD },
    );
  });

  for (const [name, definition] of services) {
    it(`gets a clear answer from ${name} to messages of any shape`, async () => {
      const paths = Object.values(definition).map(({ path }) => path);
      await fc.assert(
        fc.asyncProperty(fc.constantFrom(...paths), anyMessage(text), async (path, message) => {
          const address = lab.address as Address & { kind: 'unix' };
          const code = await rawCall(address, path, [frame(message)], 'half-close');
          assert.ok(!UNCLEAR.includes(code), `${path}: ${code}`);
        }),
        { numRuns: 4 * RUNS_PER_METHOD },
      );
    });
  }

  it('leaves the state whole', async () => {
    // A SQLite database is checked as it is opened.
    await lab.restartController();
    const { zones } = await ask(lab.clients.zones.listZones.bind(lab.clients.zones), {});
    assert.ok(zones.some((zone) => zone.name === 'z1'));
  });
});
