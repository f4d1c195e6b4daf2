import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { ClientUnaryCall, Metadata, ServiceError } from '@grpc/grpc-js';
import { grpcTarget, type Address } from '@holdfast/common/address.ts';
import { callUnary, connectTo } from '@holdfast/common/client.ts';
import { fromServiceError, HoldfastError } from '@holdfast/common/errors.ts';
import { silentLogger } from '@holdfast/common/logger.ts';
import type { Reason } from '@holdfast/common/reasons.ts';
import { Secret } from '@holdfast/common/secret.ts';
import { BackupServiceClient } from '@holdfast/proto/holdfast/v1/backup.ts';
import type { OperationEvent } from '@holdfast/proto/holdfast/v1/event.ts';
import { HostServiceClient } from '@holdfast/proto/holdfast/v1/host.ts';
import { KeyServiceClient } from '@holdfast/proto/holdfast/v1/key.ts';
import { LeftoverServiceClient } from '@holdfast/proto/holdfast/v1/leftover.ts';
import {
  OperationServiceClient,
  type Operation,
  type OperationState,
  type WatchOperationResponse,
} from '@holdfast/proto/holdfast/v1/operation.ts';
import { AddRepositoryRequest, RepositoryServiceClient } from '@holdfast/proto/holdfast/v1/repository.ts';
import { StatisticsServiceClient } from '@holdfast/proto/holdfast/v1/statistics.ts';
import { ZoneServiceClient } from '@holdfast/proto/holdfast/v1/zone.ts';
import { startController, type RunningController } from '../controller.ts';
import { makeState, type StoreKind, type TestState } from './stores.ts';
import { startFakeAgent, type FakeAgent, type FakeJob } from './fake-agent.ts';

const CONDITION_DEADLINE_MS = 20_000;
/** For a whole test: only one that hangs takes so long. */
export const TEST_DEADLINE_MS = 60_000;
/** Small, so that a test does not spend a second on every passphrase. */
const SCRYPT_WORK_FACTOR = 4;

export const MASTER_KEY = new Secret('5a'.repeat(32));

type Method<Request, Response> = (
  request: Request,
  metadata: Metadata,
  options: { deadline: Date },
  callback: (error: ServiceError | null, response: Response) => void,
) => ClientUnaryCall;

/** A controller in a temporary folder, its clients, and agents made for it. */
export interface Lab {
  readonly directory: string;
  readonly state: TestState;
  readonly address: Address;
  readonly clients: Clients;
  startAgent(name: string, zone: string): Promise<FakeAgent>;
  /** Makes zone `z1` with host `h1`, repository `r1` and a running domain `vm`. */
  furnish(): Promise<FakeAgent>;
  /** Starts another controller on the same state. Closed with the lab, or before. */
  startAnother(): Promise<AnotherController>;
  stopController(): Promise<void>;
  restartController(): Promise<void>;
  close(): Promise<void>;
}

/** A controller beside the first one, seen as a lab whose clients call it. */
export interface AnotherController {
  readonly lab: Lab;
  close(): Promise<void>;
}

interface Clients {
  readonly backups: BackupServiceClient;
  readonly operations: OperationServiceClient;
  readonly zones: ZoneServiceClient;
  readonly hosts: HostServiceClient;
  readonly repositories: RepositoryServiceClient;
  readonly keys: KeyServiceClient;
  readonly statistics: StatisticsServiceClient;
  readonly leftovers: LeftoverServiceClient;
}

/** What a test has otherwise than a controller at work. */
export interface LabOptions {
  readonly now?: () => Date;
  readonly heartbeatMs?: number;
  readonly scrubLookMs?: number;
}

export async function startLab(kind: StoreKind = 'sqlite', options: LabOptions = {}): Promise<Lab> {
  const directory = mkdtempSync(join(tmpdir(), 'holdfast-controller-'));
  const state = await makeState(kind);
  const address: Address = { kind: 'unix', path: join(directory, 'controller.sock') };
  const agents: FakeAgent[] = [];
  const start = (at = address): Promise<RunningController> =>
    startController({
      listen: [at],
      state: state.place,
      masterKey: MASTER_KEY,
      logger: silentLogger,
      scryptWorkFactor: SCRYPT_WORK_FACTOR,
      ...options,
    });
  let controller = await start();
  const clients = clientsOf(address);
  const others: AnotherController[] = [];
  const startAgent = async (name: string, zone: string): Promise<FakeAgent> => {
    const agent = await startFakeAgent({
      name,
      zone,
      address: { kind: 'unix', path: join(directory, `${name}.sock`) },
    });
    agents.push(agent);
    return agent;
  };
  const lab: Lab = {
    directory,
    state,
    address,
    clients,
    startAgent,
    furnish: async () => {
      const agent = await startAgent('h1', 'z1');
      agent.domains = [{ uuid: randomUUID(), name: 'vm', state: 'running' }];
      const { zones, repositories } = clients;
      await ask(zones.createZone.bind(zones), { name: 'z1' });
      await addHost(lab, agent);
      await ask(
        repositories.addRepository.bind(repositories),
        AddRepositoryRequest.fromPartial({
          zone: 'z1',
          name: 'r1',
          type: 0,
          path: '/srv/r1',
        }),
      );
      return agent;
    },
    startAnother: async () => {
      const at: Address = { kind: 'unix', path: join(directory, `c${others.length + 2}.sock`) };
      const running = await start(at);
      const theirs = clientsOf(at);
      const another = {
        lab: { ...lab, address: at, clients: theirs },
        close: async () => {
          for (const client of Object.values({ ...theirs })) client.close();
          await running.close();
        },
      };
      others.push(another);
      return another;
    },
    stopController: () => controller.close(),
    restartController: async () => {
      await controller.close();
      controller = await start();
    },
    close: async () => {
      for (const client of Object.values({ ...clients })) client.close();
      await Promise.all([controller.close(), ...others.map((another) => another.close())]);
      await Promise.all(agents.map((agent) => agent.stop()));
      await state.remove();
      rmSync(directory, { recursive: true, force: true });
    },
  };
  return lab;
}

function clientsOf(address: Address): Clients {
  return {
    backups: connectTo(BackupServiceClient, address),
    operations: connectTo(OperationServiceClient, address),
    zones: connectTo(ZoneServiceClient, address),
    hosts: connectTo(HostServiceClient, address),
    repositories: connectTo(RepositoryServiceClient, address),
    keys: connectTo(KeyServiceClient, address),
    statistics: connectTo(StatisticsServiceClient, address),
    leftovers: connectTo(LeftoverServiceClient, address),
  };
}

/** Calls a unary method of the controller. */
export function ask<Request, Response>(
  method: Method<Request, Response>,
  request: Request,
): Promise<Response> {
  return callUnary(method, request, { correlationId: 'test-1', deadlineMs: CONDITION_DEADLINE_MS });
}

/** Expects a call to be refused with a reason, and gives the error. */
export async function refused(call: Promise<unknown>, reason: Reason): Promise<HoldfastError> {
  try {
    await call;
  } catch (error) {
    assert.ok(error instanceof HoldfastError, String(error));
    assert.equal(error.reason, reason, error.message);
    return error;
  }
  assert.fail(`expected to be refused with ${reason}`);
}

/** Adds an agent's host to `z1`, by the agent's own name when it is given none. */
export async function addHost(
  { clients: { hosts } }: Lab,
  agent: FakeAgent,
  name = '',
  labels: Record<string, string> = {},
): Promise<void> {
  const address = grpcTarget(agent.address);
  await ask(hosts.addHost.bind(hosts), { zone: 'z1', name, address, labels });
}

/** Sets and clears settings of `z1`. */
export async function setSettings(
  { clients: { zones } }: Lab,
  values: Record<string, string>,
  clear: string[] = [],
): Promise<void> {
  await ask(zones.setSettings.bind(zones), { zone: 'z1', values, clear });
}

/** Starts a backup of `vm` in `z1`. */
export async function takeBackup(
  lab: Lab,
  overrides: {
    settings?: Record<string, string>;
    requestId?: string;
    domain?: string;
    host?: string;
    repository?: string;
    zone?: string;
  } = {},
): Promise<Operation> {
  const { backups } = lab.clients;
  const { operation } = await ask(backups.takeBackup.bind(backups), {
    zone: 'z1',
    domain: 'vm',
    host: '',
    repository: '',
    settings: {},
    allowPlaintext: false,
    requestId: '',
    ...overrides,
  });
  assert.ok(operation);
  return operation;
}

export async function getOperation(lab: Lab, operationId: string): Promise<Operation> {
  const { operations } = lab.clients;
  const { operation } = await ask(operations.getOperation.bind(operations), { operationId });
  assert.ok(operation);
  return operation;
}

/** Waits until an operation is in a state. */
export async function reaches(lab: Lab, operationId: string, state: OperationState): Promise<Operation> {
  return await eventually(async () => {
    const operation = await getOperation(lab, operationId);
    return operation.state === state ? operation : undefined;
  });
}

/** Waits until the agent has been told of a job. */
export async function jobOf(agent: FakeAgent, operationId: string): Promise<FakeJob> {
  return await eventually(() => Promise.resolve(agent.jobs.get(operationId)));
}

/** Waits for a condition, and gives what it gave. */
export async function eventually<Value>(look: () => Promise<Value | undefined>): Promise<Value> {
  const deadline = Date.now() + CONDITION_DEADLINE_MS;
  while (Date.now() < deadline) {
    const value = await look();
    if (value !== undefined && value !== false) return value;
    await sleep(10);
  }
  assert.fail('the condition did not come true in time');
}

/** Watches an operation to its end, or until the test closes the stream. */
export function watch(
  lab: Lab,
  operationId: string,
  afterSequence = 0n,
): {
  readonly events: OperationEvent[];
  readonly ended: Promise<HoldfastError | undefined>;
  close(): void;
} {
  const events: OperationEvent[] = [];
  const stream = lab.clients.operations.watchOperation({ operationId, afterSequence });
  const ended = new Promise<HoldfastError | undefined>((resolve) => {
    stream.on('data', ({ event }: WatchOperationResponse) => {
      if (event !== undefined) events.push(event);
    });
    stream.on('error', (error) => {
      const known = fromServiceError(error);
      resolve(known instanceof HoldfastError ? known : new HoldfastError('INTERNAL', known.message));
    });
    stream.on('end', () => {
      // An error comes after the end of the data.
      setImmediate(() => {
        resolve(undefined);
      });
    });
  });
  return {
    events,
    ended,
    close: () => {
      stream.cancel();
    },
  };
}
