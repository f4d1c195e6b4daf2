import assert from 'node:assert/strict';
import { chmod, cp, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Client, credentials, Metadata, status, type ServiceError } from '@grpc/grpc-js';
import {
  RepositoryServiceClient,
  RepositoryServiceService,
  type RepositoryServiceServer,
} from '@holdfast/proto/holdfast/v1/repository.ts';
import { grpcTarget, type Address } from '../address.ts';
import { unary } from '../call.ts';
import { callUnary, connectTo } from '../client.ts';
import { HoldfastError, fromServiceError } from '../errors.ts';
import { createGate, DEFAULT_LIMITS } from '../gate.ts';
import { silentLogger } from '../logger.ts';
import { renewCertificate, validFor } from '../pki/pki.ts';
import { makeTestPki, type TestPki } from '../pki/testing.ts';
import { CERTIFICATE_HEALTH, serve, type RunningServer } from '../server.ts';
import { isRenewalDue, openCertificates, readCertificates, type Certificates } from './certificates.ts';
import type { ExpectedPeer } from './channel.ts';

const DAY_MS = 24 * 3_600_000;
const DEADLINE_MS = 20_000;
const CONTROLLER: ExpectedPeer = { role: 'controller', zone: undefined };

const past = { notBefore: new Date(Date.now() - 2 * DAY_MS), notAfter: new Date(Date.now() - DAY_MS) };
const future = { notBefore: new Date(Date.now() + DAY_MS), notAfter: new Date(Date.now() + 2 * DAY_MS) };

describe('TLS', function () {
  this.timeout(DEADLINE_MS);
  let pki: TestPki;
  let foreign: TestPki;
  let server: RunningServer;
  let serverDirectory: string;
  let serverCertificates: Certificates;
  /** Who called, as handlers see it. */
  let callers: string[];
  let clients: { close(): void }[];

  before(async () => {
    pki = await makeTestPki();
    foreign = await makeTestPki();
  });
  after(async () => {
    await pki[Symbol.asyncDispose]();
    await foreign[Symbol.asyncDispose]();
  });
  beforeEach(async () => {
    callers = [];
    clients = [];
    serverDirectory = await pki.issue(['holdfast://controller']);
    serverCertificates = await openCertificates(serverDirectory, silentLogger, 20);
    server = await started(serverCertificates);
  });
  afterEach(async () => {
    for (const client of clients) client.close();
    await server.close(0);
    serverCertificates.close();
  });

  function started(
    certificates: Certificates,
    address: Address = { kind: 'tcp', host: '127.0.0.1', port: 0 },
  ) {
    const implementation: Pick<RepositoryServiceServer, 'listRepositories'> = {
      listRepositories: unary(silentLogger, (_request, { caller }) => {
        callers.push(caller);
        return Promise.resolve({ repositories: [] });
      }),
    };
    const service = {
      name: 'holdfast.v1.RepositoryService',
      definition: RepositoryServiceService,
      implementation,
    };
    const gate = createGate({ access: { admit: () => undefined }, limits: DEFAULT_LIMITS });
    return serve(address, [service], silentLogger, { certificates, gate });
  }

  function clientWith(certificates: Certificates, expected = CONTROLLER): RepositoryServiceClient {
    const client = connectTo(RepositoryServiceClient, server.address, { certificates, expected });
    clients.push(client);
    return client;
  }
  const list = (client: RepositoryServiceClient) =>
    callUnary(
      client.listRepositories.bind(client),
      { zone: '' },
      { correlationId: 'test', deadlineMs: 5_000 },
    );

  it('lets a certificate of the authority in, and says who it is', async () => {
    await list(clientWith(await pki.certificates(['holdfast://operator/zones/home'])));
    assert.match(callers[0] ?? '', /^test \d+ \(holdfast:\/\/operator\/zones\/home\)$/);
  });

  const strangers: [string, RegExp, () => Promise<Certificates>][] = [
    ['an expired certificate', /has expired/, () => pki.certificates(['holdfast://admin'], past)],
    ['one that is not valid yet', /not valid yet/, () => pki.certificates(['holdfast://admin'], future)],
    [
      'one of a foreign authority',
      /authority that is not trusted/,
      async () => {
        const directory = await foreign.issue(['holdfast://admin']);
        await cp(join(serverDirectory, 'ca.crt'), join(directory, 'ca.crt'));
        return openCertificates(directory, silentLogger);
      },
    ],
  ];
  for (const [what, words, make] of strangers) {
    it(`tells whoever has ${what} so, with UNAUTHENTICATED`, async () => {
      const certificates = await make();
      await assert.rejects(list(clientWith(certificates)), (error) => {
        assert.ok(error instanceof HoldfastError);
        assert.equal(error.reason, 'CERTIFICATE_REFUSED', error.message);
        assert.equal(error.code, status.UNAUTHENTICATED);
        assert.match(error.message, words);
        return true;
      });
      certificates.close();
      assert.deepEqual(callers, []);
    });
  }

  it('tells whoever has no certificate, or one without a role, so', async () => {
    const directory = await pki.issue([]);
    const [authority, certificate, key] = await Promise.all(
      ['ca.crt', 'tls.crt', 'tls.key'].map((name) => readFile(join(directory, name))),
    );
    assert.ok(authority && certificate && key);
    const table: [ReturnType<typeof credentials.createSsl>, RegExp][] = [
      [credentials.createSsl(authority), /shows no certificate/],
      [credentials.createSsl(authority, key, certificate), /no URI that gives it a role/],
    ];
    for (const [channel, words] of table) {
      const error = await rawCall(server.address, channel);
      assert.equal(error.code, status.UNAUTHENTICATED, error.message);
      assert.match(error.details, words);
      assert.equal((fromServiceError(error) as HoldfastError).reason, 'CERTIFICATE_REFUSED');
    }
    assert.deepEqual(callers, []);
  });

  it('does not hear a connection any more whose certificate has expired since', async () => {
    const soon = { notBefore: new Date(Date.now() - DAY_MS), notAfter: new Date(Date.now() + 2_500) };
    const client = clientWith(await pki.certificates(['holdfast://admin'], soon));
    await list(client);
    const refusal = await eventuallyRefused(() => list(client));
    assert.equal(refusal.reason, 'CERTIFICATE_REFUSED', refusal.message);
    assert.match(refusal.message, /has expired since it was opened/);
  });

  it('gives plain text no answer on a port with TLS', async () => {
    const error = await rawCall(server.address, credentials.createInsecure());
    assert.equal(error.code, status.UNAVAILABLE);
    assert.deepEqual(callers, []);
  });

  it('does not talk to a service that is not who it should be', async () => {
    const certificates = await pki.certificates(['holdfast://admin']);
    const agent: ExpectedPeer = { role: 'agent', zone: 'home', host: 'h1' };
    await assert.rejects(list(clientWith(certificates, agent)), {
      reason: 'AGENT_UNREACHABLE',
      message: /which is not the agent of host h1 of zone home/,
    });
    const theirs = await foreign.certificates(['holdfast://admin']);
    await assert.rejects(list(clientWith(theirs)), { reason: 'AGENT_UNREACHABLE', message: /certificate/ });
  });

  it('takes renewed certificates into use on both sides without a restart', async () => {
    const ownDirectory = await pki.issue(['holdfast://operator']);
    const own = await openCertificates(ownDirectory, silentLogger, 20);
    const client = clientWith(own);
    await list(client);
    const old = clientWith(await pki.certificates(['holdfast://admin']));
    await list(old);
    const before = serverCertificates.current().notAfter;

    // Everything is of a new authority from here on.
    await rm(join(serverDirectory, 'tls.crt'));
    await Promise.all(
      [serverDirectory, ownDirectory].map(async (directory) => {
        const fresh = await foreign.issue(
          [directory === serverDirectory ? 'holdfast://controller' : 'holdfast://admin'],
          validFor(33),
        );
        for (const name of ['ca.crt', 'tls.key', 'tls.crt'])
          await cp(join(fresh, name), join(directory, name));
      }),
    );
    await until(() => serverCertificates.current().notAfter.getTime() !== before.getTime());
    await until(() => own.current().identity.name.includes('admin'));
    await list(client);
    assert.match(callers.at(-1) ?? '', /holdfast:\/\/admin/);
    // The old authority is not trusted any more, nor heard over the connection that it has.
    await eventuallyRefused(() => list(old));
    own.close();
  });

  it('keeps what it has while files are missing or do not belong together', async () => {
    const before = serverCertificates.current();
    const other = await pki.issue(['holdfast://controller']);
    await cp(join(other, 'tls.key'), join(serverDirectory, 'tls.key'));
    await writeFile(join(serverDirectory, 'ca.crt'), 'half');
    await sleep(100);
    assert.equal(serverCertificates.current(), before);
    await list(clientWith(await pki.certificates(['holdfast://viewer'])));
    await assert.rejects(readCertificates(serverDirectory), { reason: 'CERTIFICATE_UNUSABLE' });
  });

  it('says in health, ahead of time, that its certificate is to be renewed', async () => {
    const health = async () => {
      const certificates = await pki.certificates(['holdfast://viewer']);
      const { authority, key, certificate } = certificates.current();
      return checkHealth(server.address, credentials.createSsl(authority, key, certificate));
    };
    assert.equal(await health(), 1);
    const halfGone = {
      notBefore: new Date(Date.now() - 70 * DAY_MS),
      notAfter: new Date(Date.now() + 20 * DAY_MS),
    };
    await renewCertificate(serverDirectory, pki.authorityDirectory, halfGone);
    await until(async () => (await health()) === 2);
  });

  it('wants a renewal in the last third, or the last 30 days', () => {
    const at = (days: number) => new Date(days * DAY_MS);
    const due = (lifetime: number, day: number) =>
      isRenewalDue({ notBefore: at(0), notAfter: at(lifetime) }, at(day));
    assert.deepEqual(
      [due(90, 59), due(90, 61), due(3, 1), due(3, 2.1), due(1000, 900), due(1000, 971)],
      [false, true, false, true, false, true],
    );
  });

  it('does not start with certificates that cannot be used, and says why', async () => {
    const directory = await pki.issue(['holdfast://controller']);
    await assert.rejects(openCertificates(join(directory, 'nowhere'), silentLogger), {
      reason: 'CERTIFICATE_UNUSABLE',
      message: /nowhere/,
    });
    await assert.rejects(readCertificates(await pki.issue(['holdfast://admin'], past)), {
      reason: 'CERTIFICATE_UNUSABLE',
      message: /has expired/,
    });
    const key = join(directory, 'tls.key');
    await chmod(key, 0o604);
    await assert.rejects(openCertificates(directory, silentLogger), {
      message: /Every user can open .*chmod 0600/,
    });
    await chmod(key, 0o640);
    await writeFile(key, 'x');
    await assert.rejects(openCertificates(directory, silentLogger), { message: /not the key/ });
  });
});

/** Calls without our own client, as a stranger would, and gives the error. */
function rawCall(
  address: Address,
  channel: ReturnType<typeof credentials.createInsecure>,
): Promise<ServiceError> {
  const client = new Client(grpcTarget(address), channel, { 'grpc.ssl_target_name_override': 'localhost' });
  const { listRepositories } = RepositoryServiceService;
  return new Promise((resolve, reject) => {
    client.makeUnaryRequest(
      listRepositories.path,
      listRepositories.requestSerialize,
      listRepositories.responseDeserialize,
      { zone: '' },
      new Metadata(),
      { deadline: Date.now() + 5_000 },
      (error) => {
        client.close();
        if (error === null) reject(new Error('it was answered'));
        else resolve(error);
      },
    );
  });
}

/** grpc.health.v1.HealthCheckResponse.status of our certificate. */
function checkHealth(
  address: Address,
  channel: ReturnType<typeof credentials.createInsecure>,
): Promise<number> {
  const client = new Client(grpcTarget(address), channel, { 'grpc.ssl_target_name_override': 'localhost' });
  const name = Buffer.from(CERTIFICATE_HEALTH);
  return new Promise((resolve, reject) => {
    client.makeUnaryRequest(
      '/grpc.health.v1.Health/Check',
      () => Buffer.concat([Buffer.from([0x0a, name.length]), name]),
      (bytes: Buffer) => bytes[1] ?? 0,
      {},
      (error, value) => {
        client.close();
        if (error === null) resolve(value ?? 0);
        else reject(error);
      },
    );
  });
}

/** Calls until it is refused. */
async function eventuallyRefused(call: () => Promise<unknown>): Promise<HoldfastError> {
  let refusal: HoldfastError | undefined;
  await until(async () => {
    refusal = await call().then(
      () => undefined,
      (error: unknown) => error as HoldfastError,
    );
    return refusal !== undefined;
  });
  assert.ok(refusal instanceof HoldfastError);
  return refusal;
}

async function until(holds: () => boolean | Promise<boolean>): Promise<void> {
  const deadline = Date.now() + DEADLINE_MS / 2;
  while (!(await holds())) {
    if (Date.now() > deadline) throw new Error('the condition did not come true in time');
    await sleep(10);
  }
}
