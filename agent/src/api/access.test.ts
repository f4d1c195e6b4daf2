import assert from 'node:assert/strict';
import { mkdtempDisposable } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Address } from '@holdfast/common/address.ts';
import { callUnary, connectTo } from '@holdfast/common/client.ts';
import { DEFAULT_FRONT } from '@holdfast/common/front.ts';
import { silentLogger } from '@holdfast/common/logger.ts';
import { makeTestPki, type TestPki } from '@holdfast/common/pki/testing.ts';
import { AgentServiceClient, type TakeBackupResponse } from '@holdfast/proto/holdfast/agent/v1/agent.ts';
import { fromServiceError } from '@holdfast/common/errors.ts';
import { startAgent, type RunningAgent } from '../agent.ts';

const AGENT = 'holdfast://agent/zones/home/hosts/h1';

describe('access to an agent', function () {
  this.timeout(20_000);
  const stack = new AsyncDisposableStack();
  let pki: TestPki;
  let agent: RunningAgent;
  let port: Address;

  before(async () => {
    pki = stack.use(await makeTestPki());
    const root = stack.use(await mkdtempDisposable(join(tmpdir(), 'holdfast-agent-')));
    agent = await startAgent({
      listen: [
        { kind: 'unix', path: join(root.path, 'a.sock') },
        { kind: 'tcp', host: '127.0.0.1', port: 0 },
      ],
      front: { ...DEFAULT_FRONT, tlsDirectory: await pki.issue([AGENT]) },
      zone: 'home',
      hostName: 'h1',
      libvirtUri: 'test:///default',
      stateDirectory: join(root.path, 's'),
      runtimeDirectory: join(root.path, 'r'),
      scratchDirectory: join(root.path, 'x'),
      logger: silentLogger,
      logLevel: 'error',
    });
    stack.defer(() => agent.close());
    const [, tcp] = agent.addresses;
    assert.ok(tcp);
    port = tcp;
  });
  after(() => stack.disposeAsync());

  async function clientOf(uri: string): Promise<AgentServiceClient> {
    const client = connectTo(AgentServiceClient, port, {
      certificates: await pki.certificates([uri]),
      expected: { role: 'agent', zone: 'home', host: 'h1' },
    });
    stack.defer(() => {
      client.close();
    });
    return client;
  }
  const listJobs = (client: AgentServiceClient) =>
    callUnary(client.listJobs.bind(client), {}, { correlationId: 'test', deadlineMs: 5_000 });

  it('is for controllers of its zone, and of all zones', async () => {
    for (const uri of ['holdfast://controller/zones/home', 'holdfast://controller'])
      assert.deepEqual(await listJobs(await clientOf(uri)), { jobs: [] });
  });

  it('is not for the controller of another zone, nor for those who call controllers, nor for agents', async () => {
    for (const uri of [
      'holdfast://controller/zones/away',
      'holdfast://admin',
      'holdfast://operator/zones/home',
      AGENT,
    ]) {
      const client = await clientOf(uri);
      await assert.rejects(listJobs(client), { reason: 'PERMISSION_DENIED' }, uri);
      const error = await new Promise<Error>((resolve) => {
        const stream = client.takeBackup();
        stream.on('data', (response: TakeBackupResponse) => {
          assert.fail(`answered with ${JSON.stringify(response)}`);
        });
        stream.on('error', (failure) => {
          resolve(fromServiceError(failure));
        });
        stream.write({ message: undefined });
      });
      assert.match(error.message, /obeys controllers of zone home only/, uri);
    }
  });
});
