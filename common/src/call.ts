import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import type { Writable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import type {
  handleServerStreamingCall,
  handleUnaryCall,
  Metadata,
  ServerUnaryCall,
  ServerWritableStream,
} from '@grpc/grpc-js';
import { HoldfastError, toServiceError } from './errors.ts';
import { callerIdentity } from './identity/caller.ts';
import type { Logger } from './logger.ts';

/** The metadata key that carries the id that stands in every log line about a request. */
export const CORRELATION_KEY = 'holdfast-correlation-id';

const FLUSH_DEADLINE_MS = 1_000;
const FLUSH_LOOK_MS = 5;

/** What a handler knows of its call besides the request. */
export interface CallContext {
  readonly correlationId: string;
  /** Who calls: the other end of the connection. */
  readonly caller: string;
  /** Aborts when the caller goes away. */
  readonly signal: AbortSignal;
  readonly logger: Logger;
}

/** A grpc-js unary handler from an async function. Whatever it throws becomes a clear status. */
export function unary<Request, Response>(
  logger: Logger,
  handle: (request: Request, context: CallContext) => Promise<Response>,
): handleUnaryCall<Request, Response> {
  return (call, callback) => {
    const context = callContext(call, logger);
    handle(call.request, context).then(
      (response) => {
        callback(null, response);
      },
      (error: unknown) => {
        logFailure(context, call.getPath(), error);
        callback(toServiceError(error));
      },
    );
  };
}

/** A grpc-js server-streaming handler from an async generator, which is closed when the caller goes away. */
export function serverStream<Request, Response>(
  logger: Logger,
  handle: (request: Request, context: CallContext) => AsyncIterable<Response>,
): handleServerStreamingCall<Request, Response> {
  return (call) => {
    const context = callContext(call, logger);
    pump(call, handle(call.request, context), context.signal).then(
      () => {
        call.end();
      },
      async (error: unknown) => {
        if (context.signal.aborted) return;
        logFailure(context, call.getPath(), error);
        await flushed(call, context.signal);
        // `destroy(error)` would send no status.
        call.emit('error', toServiceError(error));
      },
    );
  };
}

/** Waits until what was written is on its way, which a status would overtake; a reader that does not read is not waited for. */
export async function flushed(stream: Writable, signal: AbortSignal): Promise<void> {
  const deadline = Date.now() + FLUSH_DEADLINE_MS;
  while (stream.writableLength > 0 && !signal.aborted && Date.now() < deadline) await sleep(FLUSH_LOOK_MS);
}

/** The correlation id of a call, or a new one. Anything that is not a short plain word is replaced. */
export function correlationIdOf(metadata: Metadata): string {
  const [given] = metadata.get(CORRELATION_KEY);
  return typeof given === 'string' && /^[\w.-]{1,64}$/.test(given) ? given : randomUUID();
}

/** Logs a failed call: an expected one in a line, a bug with its stack. */
export function logFailure(context: Pick<CallContext, 'logger'>, path: string, error: unknown): void {
  if (error instanceof HoldfastError && error.reason !== 'INTERNAL') {
    context.logger.info('refused', { rpc: path, reason: error.reason, detail: error.message });
  } else {
    context.logger.error('failed', { rpc: path, error });
  }
}

function callContext<Request, Response>(
  call: ServerUnaryCall<Request, Response> | ServerWritableStream<Request, Response>,
  logger: Logger,
): CallContext {
  const gone = new AbortController();
  call.on('cancelled', () => {
    gone.abort();
  });
  const correlationId = correlationIdOf(call.metadata);
  return {
    correlationId,
    caller: callerOf(call),
    signal: gone.signal,
    logger: logger.child({ correlationId }),
  };
}

/** By name with a certificate; a peer without an address is on a unix socket. */
function callerOf(call: Pick<ServerUnaryCall<unknown, unknown>, 'getPeer' | 'getAuthContext'>): string {
  const identity = callerIdentity(call);
  if (identity !== undefined) return identity.name;
  const peer = call.getPeer();
  return peer === 'unknown' ? 'unix socket' : peer;
}

async function pump<Request, Response>(
  call: ServerWritableStream<Request, Response>,
  responses: AsyncIterable<Response>,
  signal: AbortSignal,
): Promise<void> {
  for await (const response of responses) {
    signal.throwIfAborted();
    // Waiting for `drain` without the signal would hang for ever once the caller is gone.
    if (!call.write(response)) await once(call, 'drain', { signal });
  }
}
