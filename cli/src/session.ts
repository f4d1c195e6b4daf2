import type { ClientUnaryCall, Metadata, ServiceError } from '@grpc/grpc-js';
import { grpcTarget, type Address } from '@holdfast/common/address.ts';
import { callUnary, connectTo } from '@holdfast/common/client.ts';
import type { Certificates } from '@holdfast/common/identity/certificates.ts';
import { BackupServiceClient } from '@holdfast/proto/holdfast/v1/backup.ts';
import { HostServiceClient } from '@holdfast/proto/holdfast/v1/host.ts';
import { KeyServiceClient } from '@holdfast/proto/holdfast/v1/key.ts';
import { LeftoverServiceClient } from '@holdfast/proto/holdfast/v1/leftover.ts';
import { OperationServiceClient } from '@holdfast/proto/holdfast/v1/operation.ts';
import { RepositoryServiceClient } from '@holdfast/proto/holdfast/v1/repository.ts';
import { StatisticsServiceClient } from '@holdfast/proto/holdfast/v1/statistics.ts';
import { ZoneServiceClient } from '@holdfast/proto/holdfast/v1/zone.ts';
import { CommandError } from './command-error.ts';
import { isFromTransport } from './transport.ts';

/** One command's connection to a controller. */
export interface Session {
  readonly address: Address;
  /** Stands in every log line about this command, from here to QEMU. */
  readonly correlationId: string;
  readonly backups: BackupServiceClient;
  readonly operations: OperationServiceClient;
  readonly zones: ZoneServiceClient;
  readonly hosts: HostServiceClient;
  readonly repositories: RepositoryServiceClient;
  readonly keys: KeyServiceClient;
  readonly statistics: StatisticsServiceClient;
  readonly leftovers: LeftoverServiceClient;
  close(): void;
}

/** Connects to a controller, with TLS when there are certificates; nothing is sent before the first call. */
export function openSession(address: Address, correlationId: string, certificates?: Certificates): Session {
  const tls = certificates && { certificates, expected: { role: 'controller' as const, zone: undefined } };
  const backups = connectTo(BackupServiceClient, address, tls);
  const operations = connectTo(OperationServiceClient, address, tls);
  const zones = connectTo(ZoneServiceClient, address, tls);
  const hosts = connectTo(HostServiceClient, address, tls);
  const repositories = connectTo(RepositoryServiceClient, address, tls);
  const keys = connectTo(KeyServiceClient, address, tls);
  const statistics = connectTo(StatisticsServiceClient, address, tls);
  const leftovers = connectTo(LeftoverServiceClient, address, tls);
  const clients = { backups, operations, zones, hosts, repositories, keys, statistics, leftovers };
  return {
    ...{ address, correlationId, ...clients },
    close: () => {
      for (const client of Object.values(clients)) client.close();
    },
  };
}

/** A unary method of a generated client, bound to it. */
type Method<Request, Response> = (
  request: Request,
  metadata: Metadata,
  options: { deadline: Date },
  callback: (error: ServiceError | null, response: Response) => void,
) => ClientUnaryCall;

/** Taking a backup asks hosts about their domains before it answers. */
const DEADLINE_MS = 60_000;

/**
 * Calls a method of the controller.
 *
 * @throws HoldfastError as the controller sent it, CommandError CONTROLLER_UNREACHABLE when it did not answer.
 */
export async function call<Request, Response>(
  session: Session,
  method: Method<Request, Response>,
  request: Request,
  deadlineMs = DEADLINE_MS,
): Promise<Response> {
  let received: ServiceError | null = null;
  const observed: Method<Request, Response> = (sent, metadata, options, callback) =>
    method(sent, metadata, options, (error, response) => {
      received = error;
      callback(error, response);
    });
  try {
    return await callUnary(observed, request, {
      correlationId: session.correlationId,
      deadlineMs,
    });
  } catch (error) {
    throw isFromTransport(received) ? unreachable(session.address, error) : error;
  }
}

/** The error for a controller that does not answer. */
export function unreachable(address: Address, cause: unknown): CommandError {
  const why = cause instanceof Error ? ` (${cause.message})` : '';
  return new CommandError(
    'CONTROLLER_UNREACHABLE',
    `The controller at ${grpcTarget(address)} does not answer${why}. ` +
      'Is it running? Name another one with --controller or HOLDFAST_CONTROLLER.',
  );
}
