import {
  credentials,
  Metadata,
  type ChannelOptions,
  type ClientUnaryCall,
  type ServiceError,
} from '@grpc/grpc-js';
import { grpcTarget, requireLocal, type Address } from './address.ts';
import { CORRELATION_KEY } from './call.ts';
import { fromServiceError } from './errors.ts';

/** What a generated client is made from. */
type ClientConstructor<Client> = new (
  target: string,
  channelCredentials: ReturnType<typeof credentials.createInsecure>,
  options: ChannelOptions,
) => Client;

/** A client of a service at an address. Nothing is sent before the first call. */
export function connectTo<Client>(constructor: ClientConstructor<Client>, address: Address): Client {
  requireLocal(address);
  return new constructor(grpcTarget(address), credentials.createInsecure(), {
    'grpc.keepalive_time_ms': 20_000,
    'grpc.keepalive_timeout_ms': 10_000,
    // A stream that is retried behind our back would start twice.
    'grpc.enable_retries': 0,
    // An agent that comes back shall be found within seconds.
    'grpc.max_reconnect_backoff_ms': 2_000,
  });
}

/** The metadata that carries a correlation id. */
export function correlated(correlationId: string): Metadata {
  const metadata = new Metadata();
  metadata.set(CORRELATION_KEY, correlationId);
  return metadata;
}

/**
 * Calls a unary method and waits for the answer.
 *
 * @throws HoldfastError as the service sent it, AGENT_UNREACHABLE when none answered within `deadlineMs`.
 */
export function callUnary<Request, Response>(
  method: (
    request: Request,
    metadata: Metadata,
    options: { deadline: Date },
    callback: (error: ServiceError | null, response: Response) => void,
  ) => ClientUnaryCall,
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
