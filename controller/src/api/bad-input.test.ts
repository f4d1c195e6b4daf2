import assert from 'node:assert/strict';
import type { Client, ServiceDefinition } from '@grpc/grpc-js';
import fc from 'fast-check';
import { HoldfastError } from '@holdfast/common/errors.ts';
import { BackupServiceService } from '@holdfast/proto/holdfast/v1/backup.ts';
import { HostServiceService } from '@holdfast/proto/holdfast/v1/host.ts';
import { KeyServiceService } from '@holdfast/proto/holdfast/v1/key.ts';
import { OperationServiceService } from '@holdfast/proto/holdfast/v1/operation.ts';
import { RepositoryServiceService } from '@holdfast/proto/holdfast/v1/repository.ts';
import { StatisticsServiceService } from '@holdfast/proto/holdfast/v1/statistics.ts';
import { ZoneServiceService } from '@holdfast/proto/holdfast/v1/zone.ts';
import { ask, startLab, type Lab } from '../testing/lab.ts';
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
];

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
  before(async () => {
    lab = await startLab(kind);
    await lab.furnish();
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

  it('leaves the state whole', async () => {
    // A SQLite database is checked as it is opened.
    await lab.restartController();
    const { zones } = await ask(lab.clients.zones.listZones.bind(lab.clients.zones), {});
    assert.ok(zones.some((zone) => zone.name === 'z1'));
  });
});
