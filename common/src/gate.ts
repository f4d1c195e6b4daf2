import { ServerInterceptingCall, type ServerInterceptor } from '@grpc/grpc-js';
import { HoldfastError, toServiceError } from './errors.ts';
import { callerIdentity, requireUnexpired } from './identity/caller.ts';
import type { Identity } from './identity/identity.ts';
import { createRateLimit } from './limits/rate.ts';
import { createStreamCount } from './limits/streams.ts';
import type { Metrics } from './metrics.ts';

/** What callers may do. */
export interface Limits {
  /** Calls a second of each caller; twice as many at once. */
  readonly callsPerSecond: number;
  /** Open streams of each caller. */
  readonly streamsPerCaller: number;
  /** Open streams in all. */
  readonly streams: number;
}

export const DEFAULT_LIMITS: Limits = { callsPerSecond: 1_000, streamsPerCaller: 2_500, streams: 10_000 };

/** Who may call what. */
export interface Access {
  /**
   * Admits a caller to a method.
   *
   * @param path such as /holdfast.v1.ZoneService/ListZones
   * @returns what must be asked of the request as well, when it depends on that
   * @throws HoldfastError PERMISSION_DENIED
   */
  admit(path: string, caller: Identity): ((request: unknown) => Promise<void>) | undefined;
}

/** Every peer with a certificate may ask for these. */
const FOR_ALL = /^\/grpc\.(?:health|reflection)\./;

/**
 * What each call passes before its handler sees it: the rate and the number of streams of the caller, then whether the
 * caller may do that. Who comes over a unix socket or, in plain text, from this host, may do everything.
 */
export function createGate(parts: {
  readonly access: Access;
  readonly limits: Limits;
  readonly metrics?: Metrics | undefined;
}): ServerInterceptor {
  const { access, limits, metrics } = parts;
  const rate = createRateLimit(limits.callsPerSecond);
  const streams = createStreamCount({ inAll: limits.streams, perCaller: limits.streamsPerCaller });
  metrics?.countStreams(() => streams.count());

  return ({ path, requestStream, responseStream }, call) => {
    const identity = callerIdentity(call);
    const caller = identity?.name ?? 'this host';
    let close: (() => void) | undefined;
    let refused = false;
    const refuse = (error: unknown): void => {
      refused = true;
      const { code, details, metadata } = toServiceError(error);
      if (error instanceof HoldfastError) metrics?.countRefused(error.reason);
      metrics?.countCall(path, code);
      call.sendStatus({ code, details, metadata });
    };
    const enter = (): ReturnType<Access['admit']> => {
      requireUnexpired(call);
      // Whoever watches over us must not be turned away by the load that it is to notice.
      if (FOR_ALL.test(path)) return undefined;
      if (!rate.take(caller)) throw tooManyCalls(caller, limits);
      const ask = identity === undefined ? undefined : access.admit(path, identity);
      if (!requestStream && !responseStream) return ask;
      close = streams.open(caller);
      if (close === undefined) throw tooManyStreams(caller, limits);
      return ask;
    };
    return new ServerInterceptingCall(call, {
      start: (next) => {
        let ask: ReturnType<Access['admit']>;
        try {
          ask = enter();
        } catch (error) {
          refuse(error);
          return;
        }
        next({
          onReceiveMessage: (message, pass) => {
            if (refused) return;
            if (ask === undefined) pass(message);
            else
              ask(message).then(() => {
                pass(message);
              }, refuse);
          },
          onCancel: () => close?.(),
        });
      },
      sendStatus: (status, next) => {
        metrics?.countCall(path, status.code);
        next(status);
      },
    });
  };
}

function tooManyCalls(caller: string, { callsPerSecond }: Limits): HoldfastError {
  return new HoldfastError(
    'RATE_LIMITED',
    `More than ${callsPerSecond} calls a second come from ${caller}. Wait a second and try again.`,
    { metadata: { limit: String(callsPerSecond) } },
  );
}

function tooManyStreams(caller: string, { streamsPerCaller, streams }: Limits): HoldfastError {
  return new HoldfastError(
    'TOO_MANY_STREAMS',
    `There are as many open streams as may be: ${streamsPerCaller} of ${caller}, or ${streams} in all. End some.`,
    { metadata: { limit: String(streamsPerCaller), limitInAll: String(streams) } },
  );
}
