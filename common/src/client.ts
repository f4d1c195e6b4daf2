import {
  credentials,
  Metadata,
  type ChannelOptions,
  type Client,
  type ClientOptions,
  type ClientUnaryCall,
  type MethodDefinition,
  type ServiceError,
} from '@grpc/grpc-js';
import { service as healthService } from 'grpc-health-check';
import { grpcTarget, requireLocal, type Address } from './address.ts';
import { CORRELATION_KEY } from './call.ts';
import { fromServiceError, HoldfastError } from './errors.ts';
import type { Certificates } from './identity/certificates.ts';
import { openTlsChannel, type ExpectedPeer } from './identity/channel.ts';

/** What a generated client is made from. */
type ClientConstructor<Client> = new (
  target: string,
  channelCredentials: ReturnType<typeof credentials.createInsecure>,
  options: ClientOptions,
) => Client;

/** How a TCP port is called: with our certificate, and with the service at its other end that must prove who it is. */
export interface ConnectWith {
  readonly certificates: Certificates;
  readonly expected: ExpectedPeer;
}

const CHANNEL_OPTIONS: ChannelOptions = {
  'grpc.keepalive_time_ms': 20_000,
  'grpc.keepalive_timeout_ms': 10_000,
  // A stream that is retried behind our back would start twice.
  'grpc.enable_retries': 0,
  // An agent that comes back shall be found within seconds.
  'grpc.max_reconnect_backoff_ms': 2_000,
};

/**
 * A client of a service at an address. Nothing is sent before the first call.
 *
 * @param tls for TCP ports; without it, only those of loopback can be called
 * @throws HoldfastError INVALID_REQUEST when the address is on another machine and `tls` is missing
 */
export function connectTo<Client>(
  constructor: ClientConstructor<Client>,
  address: Address,
  tls?: ConnectWith,
): Client {
  const plain = credentials.createInsecure();
  if (address.kind === 'tcp' && tls !== undefined) {
    const channelOverride = openTlsChannel(address, tls.certificates, tls.expected, CHANNEL_OPTIONS);
    return new constructor(grpcTarget(address), plain, { channelOverride });
  }
  requireLocal(address);
  return new constructor(grpcTarget(address), plain, CHANNEL_OPTIONS);
}

/** The metadata that carries a correlation id. */
export function correlated(correlationId: string): Metadata {
  const metadata = new Metadata();
  metadata.set(CORRELATION_KEY, correlationId);
  return metadata;
}

/** A unary method of a generated client, bound to it. */
export type UnaryMethod<Request, Response> = (
  request: Request,
  metadata: Metadata,
  options: { deadline: Date },
  callback: (error: ServiceError | null, response: Response) => void,
) => ClientUnaryCall;

/**
 * Calls a unary method and waits for the answer.
 *
 * @throws HoldfastError as the service sent it, AGENT_UNREACHABLE when none answered within `deadlineMs`.
 */
export function callUnary<Request, Response>(
  method: UnaryMethod<Request, Response>,
  request: Request,
  options: { readonly correlationId: string; readonly deadlineMs?: number },
): Promise<Response> {
  return new Promise((resolve, reject) => {
    const deadline = new Date(Date.now() + (options.deadlineMs ?? 30_000));
    method(request, correlated(options.correlationId), { deadline }, (error, response) => {
      if (error === null) resolve(response);
      else reject(fromServiceError(error));
    });
  });
}

/**
 * Asks by grpc.health.v1 whether a server serves.
 *
 * @throws HoldfastError AGENT_UNREACHABLE when it does not answer within `deadlineMs`, SHUTTING_DOWN when it does not serve
 */
export function checkHealth(client: Client, deadlineMs: number): Promise<void> {
  const { path, requestSerialize, responseDeserialize } = healthService['Check'] as MethodDefinition<
    { readonly service: string },
    { readonly status: string }
  >;
  const deadline = new Date(Date.now() + deadlineMs);
  return new Promise((resolve, reject) => {
    client.makeUnaryRequest(
      path,
      requestSerialize,
      responseDeserialize,
      { service: '' },
      new Metadata(),
      { deadline },
      (error, response) => {
        if (error !== null) reject(fromServiceError(error));
        else if (response?.status === 'SERVING') resolve();
        else reject(new HoldfastError('SHUTTING_DOWN', 'The service is stopping.'));
      },
    );
  });
}
