import assert from 'node:assert/strict';
import { status, type UntypedServiceImplementation } from '@grpc/grpc-js';
import { RepositoryServiceClient, RepositoryServiceService } from '@holdfast/proto/holdfast/v1/repository.ts';
import { unary } from './call.ts';
import { callUnary, connectTo } from './client.ts';
import { fromServiceError, HoldfastError } from './errors.ts';
import { silentLogger } from './logger.ts';
import { reasons, type Reason } from './reasons.ts';
import { serve, type RunningServer } from './server.ts';

describe('an error', () => {
  let server: RunningServer;
  let client: RepositoryServiceClient;
  let thrown: unknown;

  before(async () => {
    const implementation = {
      listRepositories: unary(silentLogger, () => Promise.reject(thrown as Error)),
    } as unknown as UntypedServiceImplementation;
    server = await serve(
      { kind: 'tcp', host: '127.0.0.1', port: 0 },
      [{ name: 'holdfast.v1.RepositoryService', definition: RepositoryServiceService, implementation }],
      silentLogger,
    );
    client = connectTo(RepositoryServiceClient, server.address);
  });
  after(async () => {
    client.close();
    await server.close();
  });

  async function received(error: unknown): Promise<HoldfastError> {
    thrown = error;
    try {
      await callUnary(client.listRepositories.bind(client), { zone: '' }, { correlationId: 'c' });
    } catch (caught) {
      assert.ok(caught instanceof HoldfastError);
      return caught;
    }
    throw new Error('nothing was thrown');
  }

  it('comes through a real server with reason, code, message and metadata, whatever its reason', async () => {
    for (const reason of Object.keys(reasons) as Reason[]) {
      const got = await received(
        new HoldfastError(reason, `about ${reason} ö\n"`, { metadata: { disk: 'vda' } }),
      );
      assert.deepEqual(
        [got.reason, got.code, got.message, got.metadata],
        [reason, reasons[reason], `about ${reason} ö\n"`, { disk: 'vda' }],
      );
    }
  });

  it('comes through with lone surrogates made whole', async () => {
    const got = await received(
      new HoldfastError('DOMAIN_NOT_FOUND', 'no \ud800 domain', { metadata: { name: '\udfff' } }),
    );
    assert.equal(got.reason, 'DOMAIN_NOT_FOUND');
    assert.equal(got.message, 'no \ufffd domain');
  });

  it('comes through when it is far too long, cut', async () => {
    for (const long of [
      'x'.repeat(100_000),
      '💾'.repeat(50_000),
      `a${'💾'.repeat(50_000)}`,
      '\u0001'.repeat(9_000),
    ]) {
      const got = await received(new HoldfastError('REPOSITORY_FULL', long));
      assert.equal(got.reason, 'REPOSITORY_FULL');
      assert.ok(got.message.length > 100 && got.message.length <= 2_000);
      assert.ok(got.message.isWellFormed());
    }
  });

  it('comes through when its metadata is far too long', async () => {
    const got = await received(
      new HoldfastError('REPOSITORY_FULL', 'full', { metadata: { repository: 'ö'.repeat(100_000) } }),
    );
    assert.equal(got.reason, 'REPOSITORY_FULL');
  });

  it('that is a bug is opaque', async () => {
    for (const bug of [new Error('tell nobody'), 'tell nobody', undefined, new TypeError('tell nobody')]) {
      const got = await received(bug);
      assert.equal(got.reason, 'INTERNAL');
      assert.equal(got.code, status.INTERNAL);
      assert.equal(got.message.includes('tell nobody'), false);
    }
  });

  it('of gRPC itself gets a reason too', async () => {
    const nobody = connectTo(RepositoryServiceClient, { kind: 'tcp', host: '127.0.0.1', port: 1 });
    await assert.rejects(
      callUnary(
        nobody.listRepositories.bind(nobody),
        { zone: '' },
        { correlationId: 'c', deadlineMs: 5_000 },
      ),
      { reason: 'AGENT_UNREACHABLE' },
    );
    nobody.close();
    assert.equal(fromServiceError('no error at all').message, 'no error at all');
  });
});
