import type { ClientUnaryCall, Metadata, ServiceError } from '@grpc/grpc-js';
import type { Address } from '@holdfast/common/address.ts';
import { callUnary, connectTo } from '@holdfast/common/client.ts';
import {
  BackupServiceClient,
  DeleteBackupRequest,
  RestoreBackupRequest,
  TakeBackupRequest,
  VerifyBackupRequest,
  type Backup,
} from '@holdfast/proto/holdfast/v1/backup.ts';
import { HostServiceClient } from '@holdfast/proto/holdfast/v1/host.ts';
import { KeyServiceClient } from '@holdfast/proto/holdfast/v1/key.ts';
import {
  LeftoverServiceClient,
  ListLeftoversRequest,
  type ListLeftoversResponse,
} from '@holdfast/proto/holdfast/v1/leftover.ts';
import { OperationServiceClient, type Operation } from '@holdfast/proto/holdfast/v1/operation.ts';
import { RepositoryServiceClient } from '@holdfast/proto/holdfast/v1/repository.ts';
import { StatisticsServiceClient } from '@holdfast/proto/holdfast/v1/statistics.ts';
import { ZoneServiceClient } from '@holdfast/proto/holdfast/v1/zone.ts';
import { watch, type Followed, type OnEvent } from './follow.ts';

type Method<Request, Response> = (
  request: Request,
  metadata: Metadata,
  options: { deadline: Date },
  callback: (error: ServiceError | null, response: Response) => void,
) => ClientUnaryCall;

/** A caller of one controller. The four requests of BackupService are followed to their end. */
export interface Client extends Disposable {
  readonly address: Address;
  readonly backups: BackupServiceClient;
  readonly operations: OperationServiceClient;
  readonly zones: ZoneServiceClient;
  readonly hosts: HostServiceClient;
  readonly repositories: RepositoryServiceClient;
  readonly keys: KeyServiceClient;
  readonly statistics: StatisticsServiceClient;
  /** Calls a bound method of a client: `call(hosts.getHost.bind(hosts), ...)`. Throws HoldfastError as it was sent. */
  call<Request, Response>(
    method: Method<Request, Response>,
    request: Request,
    correlationId?: string,
  ): Promise<Response>;
  /** Asks for a backup and returns at once. */
  startBackup(request: Partial<TakeBackupRequest>, correlationId?: string): Promise<Operation>;
  takeBackup(request: Partial<TakeBackupRequest>, onEvent?: OnEvent): Promise<Followed>;
  verifyBackup(request: Partial<VerifyBackupRequest>, onEvent?: OnEvent): Promise<Followed>;
  restoreBackup(request: Partial<RestoreBackupRequest>, onEvent?: OnEvent): Promise<Followed>;
  deleteBackup(backupId: string): Promise<Followed>;
  getBackup(backupId: string): Promise<Backup>;
  getOperation(operationId: string): Promise<Operation>;
  /** Follows an operation to its end. */
  follow(operationId: string, onEvent?: OnEvent, afterSequence?: bigint): Promise<Followed>;
  /** What doctor finds. */
  listLeftovers(request?: Partial<ListLeftoversRequest>): Promise<ListLeftoversResponse>;
  /** What became of it. */
  removeLeftovers(request?: Partial<ListLeftoversRequest>): Promise<ListLeftoversResponse>;
  /** Sets settings of a zone; of all zones when it is empty. */
  setSettings(zone: string, values: Record<string, string>, clear?: readonly string[]): Promise<void>;
}

/** Connects to a controller. @param deadlineMs of each call */
export function connect(address: Address, deadlineMs = 60_000): Client {
  const backups = connectTo(BackupServiceClient, address);
  const operations = connectTo(OperationServiceClient, address);
  const zones = connectTo(ZoneServiceClient, address);
  const hosts = connectTo(HostServiceClient, address);
  const repositories = connectTo(RepositoryServiceClient, address);
  const keys = connectTo(KeyServiceClient, address);
  const statistics = connectTo(StatisticsServiceClient, address);
  const leftovers = connectTo(LeftoverServiceClient, address);

  const call: Client['call'] = (method, request, correlationId = 'test') =>
    callUnary(method, request, { correlationId, deadlineMs });
  const getOperation: Client['getOperation'] = async (operationId) =>
    present((await call(operations.getOperation.bind(operations), { operationId })).operation);
  const follow: Client['follow'] = async (operationId, onEvent, afterSequence = 0n) => {
    const events = await watch(operations, operationId, afterSequence, onEvent);
    return { operation: await getOperation(operationId), events };
  };
  const startBackup: Client['startBackup'] = async (request, correlationId) => {
    const full = TakeBackupRequest.fromPartial(request);
    return present((await call(backups.takeBackup.bind(backups), full, correlationId)).operation);
  };

  return {
    ...{
      address,
      backups,
      operations,
      zones,
      hosts,
      repositories,
      keys,
      statistics,
      call,
      getOperation,
      follow,
    },
    startBackup,
    takeBackup: async (request, onEvent) => follow((await startBackup(request)).id, onEvent),
    verifyBackup: async (request, onEvent) => {
      const full = VerifyBackupRequest.fromPartial(request);
      return follow(present((await call(backups.verifyBackup.bind(backups), full)).operation).id, onEvent);
    },
    restoreBackup: async (request, onEvent) => {
      const full = RestoreBackupRequest.fromPartial(request);
      return follow(present((await call(backups.restoreBackup.bind(backups), full)).operation).id, onEvent);
    },
    deleteBackup: async (backupId) => {
      const full = DeleteBackupRequest.fromPartial({ backupId });
      return follow(present((await call(backups.deleteBackup.bind(backups), full)).operation).id);
    },
    getBackup: async (backupId) =>
      present((await call(backups.getBackup.bind(backups), { backupId })).backup),
    setSettings: async (zone, values, clear = []) => {
      await call(zones.setSettings.bind(zones), { zone, values, clear });
    },
    listLeftovers: (request = {}) =>
      call(leftovers.listLeftovers.bind(leftovers), ListLeftoversRequest.fromPartial(request)),
    removeLeftovers: (request = {}) =>
      call(leftovers.removeLeftovers.bind(leftovers), ListLeftoversRequest.fromPartial(request)),
    [Symbol.dispose]: () => {
      for (const client of [backups, operations, zones, hosts, repositories, keys, statistics, leftovers])
        client.close();
    },
  };
}

/** A field that the service always fills. */
function present<Value>(value: Value | undefined): Value {
  if (value === undefined) throw new Error('An answer lacks its only field.');
  return value;
}
