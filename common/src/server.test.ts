import assert from 'node:assert/strict';
import { mkdtemp, rm, stat, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { text } from 'node:stream/consumers';
import { deflateSync, gzipSync } from 'node:zlib';
import { RepositoryServiceClient, RepositoryServiceService } from '@holdfast/proto/holdfast/v1/repository.ts';
import { status } from '@grpc/grpc-js';
import fc from 'fast-check';
import { grpcTarget, type Address } from './address.ts';
import { unary } from './call.ts';
import { callUnary, connectTo } from './client.ts';
import { silentLogger } from './logger.ts';
import { serve, type RunningServer, type Service } from './server.ts';
import { frame, rawCall } from './testing/rawCall.ts';

const NAME = 'holdfast.v1.RepositoryService';
const service: Service = {
  name: NAME,
  definition: RepositoryServiceService,
  implementation: {
    listRepositories: unary(silentLogger, () => Promise.resolve({ repositories: [] })),
  },
};
const LOOPBACK: Address = { kind: 'tcp', host: '127.0.0.1', port: 0 };

describe('a server', () => {
  let directory: string;
  let running: RunningServer[];
  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), 'holdfast-server-'));
    running = [];
  });
  afterEach(async () => {
    for (const server of running) await server.close();
    await rm(directory, { recursive: true });
  });

  async function started(address: Address): Promise<RunningServer> {
    const server = await serve(address, [service], silentLogger);
    running.push(server);
    return server;
  }
  const socket = (): Address & { kind: 'unix' } => ({ kind: 'unix', path: join(directory, 's.sock') });

  for (const protocol of ['grpc-v1', 'grpc-v1alpha']) {
    it(`reflects its services by ${protocol}`, async () => {
      const { address } = await started(LOOPBACK);
      const listed = await buf(address, ['--list-methods', '--reflect-protocol', protocol]);
      assert.match(listed, /holdfast\.v1\.RepositoryService\/ListRepositories/);
    });
  }

  it('says that it is healthy, and answers a call by reflection alone', async () => {
    const { address } = await started(LOOPBACK);
    assert.deepEqual(JSON.parse(await buf(address, ['-d', '{}'], `${NAME}/ListRepositories`)), {});
    const body = `{"service":"${NAME}"}`;
    const answer = await buf(
      address,
      ['--schema', await healthProto(directory), '-d', body],
      'grpc.health.v1.Health/Check',
    );
    assert.deepEqual(JSON.parse(answer), { status: 'SERVING' });
  });

  it('can be told not to reflect, and then answers all the same', async () => {
    const server = await serve(LOOPBACK, [service], silentLogger, { reflection: false });
    running.push(server);
    await assert.rejects(buf(server.address, ['--list-methods']), /reflect|unimplemented/i);
    const client = connectTo(RepositoryServiceClient, server.address);
    const list = client.listRepositories.bind(client);
    assert.deepEqual(await callUnary(list, { zone: '' }, { correlationId: 'test' }), { repositories: [] });
    client.close();
  });

  it('says that it does not serve before it stops to', async () => {
    const server = await started(LOOPBACK);
    server.retire();
    for (const name of ['', NAME]) {
      const answer = await buf(
        server.address,
        ['--schema', await healthProto(directory), '-d', `{"service":"${name}"}`],
        'grpc.health.v1.Health/Check',
      );
      assert.deepEqual(JSON.parse(answer), { status: 'NOT_SERVING' });
    }
    assert.deepEqual(JSON.parse(await buf(server.address, ['-d', '{}'], `${NAME}/ListRepositories`)), {});
  });

  it('makes its socket private', async () => {
    const { path } = (await started(socket())).address as { path: string };
    assert.equal((await stat(path)).mode & 0o777, 0o600);
  });

  it('replaces the socket of a killed server', async () => {
    const address = socket();
    const code = `require('node:net').createServer().listen(${JSON.stringify(address.path)}, () => process.kill(process.pid, 'SIGKILL'))`;
    await once(spawn(process.execPath, ['--eval', code]), 'exit');
    assert.ok((await stat(address.path)).isSocket());
    await started(address);
  });

  it('does not take the socket of a living one away', async () => {
    const first = await started(socket());
    await assert.rejects(started(socket()), { reason: 'IN_USE' });
    const other = createServer().listen(join(directory, 'other.sock'));
    await once(other, 'listening');
    await assert.rejects(started({ kind: 'unix', path: join(directory, 'other.sock') }), {
      reason: 'IN_USE',
    });
    other.close();
    await first.close();
    await started(socket());
  });

  it('does not remove what is no socket', async () => {
    const address = socket();
    await writeFile(address.path, 'precious');
    await assert.rejects(started(address), { reason: 'IN_USE' });
    assert.equal((await stat(address.path)).size, 8);
  });

  it('refuses a port that is taken, and an address that other machines reach', async () => {
    const { address } = await started(LOOPBACK);
    await assert.rejects(started(address), { reason: 'IN_USE' });
    await assert.rejects(started({ kind: 'tcp', host: '0.0.0.0', port: 0 }), { reason: 'INVALID_REQUEST' });
  });

  it('blames the caller for what does not decompress, and for a deadline that is none', async () => {
    const address = socket();
    await started(address);
    const path = `/${NAME}/ListRepositories`;
    const call = (bytes: Uint8Array, headers: Record<string, string>) =>
      rawCall(address, path, [frame(bytes, bytes.length, 'grpc-encoding' in headers)], 'half-close', headers);
    const encoding = fc.constantFrom(['gzip', gzipSync] as const, ['deflate', deflateSync] as const);
    const bytes = fc.uint8Array({ maxLength: 40 });
    await fc.assert(
      fc.asyncProperty(encoding, bytes, fc.nat({ max: 50 }), async ([name, compress], junk, at) => {
        const headers = { 'grpc-encoding': name };
        assert.equal(await call(compress(Buffer.alloc(0)), headers), status.OK);
        assert.equal(await call(junk, headers), status.INVALID_ARGUMENT);
        const whole = compress(Buffer.from('of a good message, a part'));
        const cut = whole.subarray(0, Math.min(at, whole.length - 1));
        assert.equal(await call(cut, headers), status.INVALID_ARGUMENT);
      }),
      { numRuns: 20 },
    );
    assert.equal(await call(Buffer.alloc(0), { 'grpc-encoding': 'snappy' }), status.UNIMPLEMENTED);
    for (const timeout of ['', 'soon', '-1', '1d']) {
      assert.equal(
        await call(Buffer.alloc(0), { 'grpc-timeout': timeout }),
        status.INVALID_ARGUMENT,
        timeout,
      );
    }
  });

  it('may be closed twice', async () => {
    const server = await started(LOOPBACK);
    await Promise.all([server.close(), server.close()]);
  });
});

/** Runs `buf curl` against a server and returns what it prints; throws what it complains about. */
async function buf(address: Address, args: readonly string[], method = ''): Promise<string> {
  const url = `http://${grpcTarget(address)}${method === '' ? '' : `/${method}`}`;
  const child = spawn('buf', ['curl', '--protocol', 'grpc', '--http2-prior-knowledge', ...args, url]);
  const [out, complaint] = await Promise.all([text(child.stdout), text(child.stderr)]);
  if (complaint !== '') throw new Error(complaint);
  return out;
}

/** Health is not part of our contract, so reflection of it is not promised: its schema is given. */
async function healthProto(directory: string): Promise<string> {
  const file = join(directory, 'health.proto');
  await writeFile(
    file,
    `syntax = "proto3"; package grpc.health.v1;
     message HealthCheckRequest { string service = 1; }
     message HealthCheckResponse { enum ServingStatus { UNKNOWN = 0; SERVING = 1; NOT_SERVING = 2; } ServingStatus status = 1; }
     service Health { rpc Check(HealthCheckRequest) returns (HealthCheckResponse); }`,
  );
  return file;
}
