import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fromBinary } from '@bufbuild/protobuf';
import { FileDescriptorSetSchema } from '@bufbuild/protobuf/wkt';
import { Client, credentials } from '@grpc/grpc-js';
import { grpcTarget, type Address } from '@holdfast/common/address.ts';
import { callUnary, connectTo } from '@holdfast/common/client.ts';
import { fromServiceError, HoldfastError } from '@holdfast/common/errors.ts';
import { DEFAULT_FRONT } from '@holdfast/common/front.ts';
import { readCertificates } from '@holdfast/common/identity/certificates.ts';
import { silentLogger } from '@holdfast/common/logger.ts';
import { makeTestPki, type TestPki } from '@holdfast/common/pki/testing.ts';
import { BackupServiceClient, TakeBackupRequest } from '@holdfast/proto/holdfast/v1/backup.ts';
import { HostServiceClient } from '@holdfast/proto/holdfast/v1/host.ts';
import { ListOperationsRequest, OperationServiceClient } from '@holdfast/proto/holdfast/v1/operation.ts';
import { AddRepositoryRequest, RepositoryServiceClient } from '@holdfast/proto/holdfast/v1/repository.ts';
import { ListSettingChangesRequest, ZoneServiceClient } from '@holdfast/proto/holdfast/v1/zone.ts';
import { startController, type RunningController } from '../controller.ts';
import { startFakeAgent, type FakeAgent } from '../testing/fake-agent.ts';
import { MASTER_KEY, refused, TEST_DEADLINE_MS } from '../testing/lab.ts';
import { makeState, type TestState } from '../testing/stores.ts';
import { accessRules } from './access.ts';

describe('access to the controller', function () {
  this.timeout(TEST_DEADLINE_MS);
  let directory: string;
  let pki: TestPki;
  let state: TestState;
  let controller: RunningController;
  let port: Address;
  let agents: FakeAgent[];
  const open: { close(): void }[] = [];

  before(async () => {
    directory = await mkdtemp(join(tmpdir(), 'holdfast-access-'));
    pki = await makeTestPki();
    state = await makeState('sqlite');
    agents = [];
    for (const [name, zone] of [
      ['h1', 'z1'],
      ['h2', 'z2'],
    ] as const) {
      const certificates = await pki.certificates([`holdfast://agent/zones/${zone}/hosts/${name}`]);
      const agent = await startFakeAgent({ name, zone, address: loopback(), certificates });
      agent.domains = [{ uuid: randomUUID(), name: 'vm', state: 'running' }];
      agents.push(agent);
    }
    controller = await startController({
      listen: [{ kind: 'unix', path: join(directory, 'c.sock') }, loopback()],
      front: { ...DEFAULT_FRONT, tlsDirectory: await pki.issue(['holdfast://controller']) },
      state: state.place,
      masterKey: MASTER_KEY,
      logger: silentLogger,
      scryptWorkFactor: 4,
    });
    const [, tcp] = controller.addresses;
    assert.ok(tcp);
    port = tcp;
    const admin = await caller('holdfast://admin');
    for (const [index, agent] of agents.entries()) {
      const zone = `z${index + 1}`;
      await admin.ask(admin.zones.createZone.bind(admin.zones), { name: zone });
      const address = grpcTarget(agent.address);
      await admin.ask(admin.hosts.addHost.bind(admin.hosts), { zone, name: '', address, labels: {} });
      const repository = AddRepositoryRequest.fromPartial({ zone, name: `r${index + 1}`, path: '/srv/r' });
      await admin.ask(admin.repositories.addRepository.bind(admin.repositories), repository);
    }
  });
  after(async () => {
    for (const client of open) client.close();
    await controller.close();
    await Promise.all(agents.map((agent) => agent.stop()));
    await state.remove();
    await pki[Symbol.asyncDispose]();
    await rm(directory, { recursive: true });
  });

  /** Somebody with a certificate that has these URIs. */
  async function caller(...uris: string[]) {
    const certificates = await readCertificates(await pki.issue(uris));
    const tls = { certificates, expected: { role: 'controller', zone: undefined } } as const;
    const clients = {
      backups: connectTo(BackupServiceClient, port, tls),
      operations: connectTo(OperationServiceClient, port, tls),
      zones: connectTo(ZoneServiceClient, port, tls),
      hosts: connectTo(HostServiceClient, port, tls),
      repositories: connectTo(RepositoryServiceClient, port, tls),
    };
    open.push(...Object.values(clients));
    return {
      ...clients,
      ask: <Request, Response>(
        method: Parameters<typeof callUnary<Request, Response>>[0],
        request: Request,
      ): Promise<Response> => callUnary(method, request, { correlationId: 'test', deadlineMs: 20_000 }),
    };
  }

  /** Calls any method with an empty message, and gives what it is refused with, if it is. */
  async function callEmpty(uri: string, method: string): Promise<HoldfastError | undefined> {
    const { authority, key, certificate } = (await readCertificates(await pki.issue([uri]))).current();
    const client = new Client(grpcTarget(port), credentials.createSsl(authority, key, certificate), {
      'grpc.ssl_target_name_override': 'localhost',
    });
    const nothing = (): Buffer => Buffer.alloc(0);
    try {
      return await new Promise((resolve) => {
        const stream = client.makeServerStreamRequest(
          `/holdfast.v1.${method}`,
          nothing,
          nothing,
          {},
          {
            deadline: Date.now() + 10_000,
          },
        );
        stream.on('data', () => undefined);
        stream.on('error', (error) => {
          const known = fromServiceError(error);
          resolve(known instanceof HoldfastError ? known : new HoldfastError('INTERNAL', known.message));
        });
        stream.on('end', () => setImmediate(resolve, undefined));
      });
    } finally {
      client.close();
    }
  }

  it('is ruled for every method of the contract, and for nothing else', async () => {
    assert.deepEqual(Object.keys(accessRules).sort(), (await contractMethods()).sort());
  });

  it('lets viewers read and nothing else, and operators neither make zones nor change settings', async () => {
    for (const method of await contractMethods()) {
      const error = await callEmpty('holdfast://viewer', method);
      const reads = /\/(?:Get|List|Watch)/.test(method);
      assert.equal(
        error?.reason === 'PERMISSION_DENIED',
        !reads,
        `${method}: ${error?.message ?? 'answered'}`,
      );
    }
    for (const method of ['ZoneService/CreateZone', 'ZoneService/SetSettings', 'HostService/RemoveHost'])
      assert.equal((await callEmpty('holdfast://operator', method))?.reason, 'PERMISSION_DENIED', method);
  });

  it('is nothing for controllers and agents, whose certificates are for other things', async () => {
    for (const uri of ['holdfast://controller', 'holdfast://agent/zones/z1/hosts/h1'])
      assert.equal((await callEmpty(uri, 'ZoneService/ListZones'))?.reason, 'PERMISSION_DENIED', uri);
  });

  it('keeps an operator of a zone in it', async () => {
    const operator = await caller('holdfast://operator/zones/z1', 'holdfast://viewer/zones/z2');
    const { backups, operations, zones, hosts, repositories, ask } = operator;
    const take = (zone: string) =>
      ask(backups.takeBackup.bind(backups), TakeBackupRequest.fromPartial({ zone, domain: 'vm' }));
    const { operation } = await take('z1');
    assert.ok(operation);
    await refused(take('z2'), 'PERMISSION_DENIED');
    await refused(take(''), 'PERMISSION_DENIED');

    const admin = await caller('holdfast://admin');
    const other = await admin.ask(
      admin.backups.takeBackup.bind(admin.backups),
      TakeBackupRequest.fromPartial({ zone: 'z2', domain: 'vm' }),
    );
    const operationId = other.operation?.id ?? '';
    await ask(operations.getOperation.bind(operations), { operationId });
    const denied = await refused(
      ask(operations.cancelOperation.bind(operations), { operationId }),
      'PERMISSION_DENIED',
    );
    assert.match(denied.message, /role operator in zone z2/);
    await ask(operations.cancelOperation.bind(operations), { operationId: operation.id });

    const list = (zone: string) =>
      ask(operations.listOperations.bind(operations), ListOperationsRequest.fromPartial({ zone }));
    assert.equal((await list('z1')).operations.length, 1);
    await refused(list(''), 'PERMISSION_DENIED');
    await refused(
      ask(zones.setSettings.bind(zones), { zone: 'z1', values: {}, clear: [] }),
      'PERMISSION_DENIED',
    );
    await refused(ask(hosts.removeHost.bind(hosts), { name: 'h1' }), 'PERMISSION_DENIED');
    await ask(hosts.getHost.bind(hosts), { name: 'h2' });
    await ask(repositories.getRepository.bind(repositories), { name: 'r2' });

    const stranger = await caller('holdfast://admin/zones/z3');
    await refused(
      stranger.ask(stranger.hosts.getHost.bind(stranger.hosts), { name: 'h1' }),
      'PERMISSION_DENIED',
    );
    await refused(
      stranger.ask(stranger.zones.createZone.bind(stranger.zones), { name: 'z9' }),
      'PERMISSION_DENIED',
    );
    await refused(
      stranger.ask(stranger.operations.getOperation.bind(stranger.operations), { operationId }),
      'PERMISSION_DENIED',
    );
  });

  it('writes down who changed a setting', async () => {
    const admin = await caller('holdfast://admin/zones/z1');
    const values = { 'nas.backup.bandwidth.limit.mbps': '7' };
    await admin.ask(admin.zones.setSettings.bind(admin.zones), { zone: 'z1', values, clear: [] });
    const { changes } = await admin.ask(
      admin.zones.listSettingChanges.bind(admin.zones),
      ListSettingChangesRequest.fromPartial({ zone: 'z1' }),
    );
    assert.match(
      JSON.stringify(changes, (_key, value: unknown) => (typeof value === 'bigint' ? String(value) : value)),
      /holdfast:\/\/admin\/zones\/z1/,
    );
  });

  it('does not take the agent of one host for that of another', async () => {
    const admin = await caller('holdfast://admin');
    const [, second] = agents;
    assert.ok(second);
    const request = { zone: 'z1', name: 'h9', address: grpcTarget(second.address), labels: {} };
    const error = await refused(
      admin.ask(admin.hosts.addHost.bind(admin.hosts), request),
      'AGENT_UNREACHABLE',
    );
    assert.match(error.message, /not the agent of host h9 of zone z1/);
  });
});

function loopback(): Address {
  return { kind: 'tcp', host: '127.0.0.1', port: 0 };
}

/** All that a controller serves, such as ZoneService/ListZones. */
async function contractMethods(): Promise<string[]> {
  const image = await readFile(new URL(import.meta.resolve('@holdfast/proto/image.binpb')));
  return fromBinary(FileDescriptorSetSchema, image)
    .file.filter((file) => file.package === 'holdfast.v1')
    .flatMap((file) => file.service)
    .flatMap((service) => service.method.map((method) => `${service.name}/${method.name}`));
}
