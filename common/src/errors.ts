import { Metadata, status, type ServiceError } from '@grpc/grpc-js';
import { ErrorInfo } from '@holdfast/proto/google/rpc/error_details.ts';
import { Status } from '@holdfast/proto/google/rpc/status.ts';
import { isReason, reasons, type Reason } from './reasons.ts';

const ERROR_INFO_TYPE = 'type.googleapis.com/google.rpc.ErrorInfo';
const ERROR_DOMAIN = 'holdfast';
const DETAILS_KEY = 'grpc-status-details-bin';

/** Longer messages are cut: trailers must stay below 8 KiB. */
const MAX_MESSAGE_LENGTH = 2_000;
const MAX_METADATA_LENGTH = 200;

/**
 * A failure that the user can understand: what happened, to which VM and disk, and what to do. Anything that is not a
 * HoldfastError is a bug and reaches the caller as INTERNAL without its text.
 */
export class HoldfastError extends Error {
  override readonly name = 'HoldfastError';
  readonly reason: Reason;
  readonly metadata: Readonly<Record<string, string>>;

  constructor(
    reason: Reason,
    message: string,
    options: { metadata?: Record<string, string>; cause?: unknown } = {},
  ) {
    // A lone surrogate would turn the status on the wire into UNKNOWN.
    super(message.toWellFormed().slice(0, MAX_MESSAGE_LENGTH).toWellFormed(), { cause: options.cause });
    this.reason = reason;
    this.metadata = options.metadata ?? {};
  }

  get code(): number {
    return reasons[this.reason];
  }
}

/** The error as google.rpc.Status with an ErrorInfo. What is not a HoldfastError becomes an opaque INTERNAL. */
export function toStatus(error: unknown): Status {
  const known =
    error instanceof HoldfastError
      ? error
      : new HoldfastError('INTERNAL', 'An internal error; the log of the service has more.');
  const info = ErrorInfo.fromPartial({
    reason: known.reason,
    domain: ERROR_DOMAIN,
    metadata: Object.fromEntries(
      Object.entries(known.metadata).map(([key, value]) => [
        key,
        value.slice(0, MAX_METADATA_LENGTH).toWellFormed(),
      ]),
    ),
  });
  return Status.fromPartial({
    code: known.code,
    message: known.message,
    details: [{ typeUrl: ERROR_INFO_TYPE, value: Buffer.from(ErrorInfo.encode(info).finish()) }],
  });
}

/** The HoldfastError that a google.rpc.Status carries. */
export function fromStatus(from: Status): HoldfastError {
  for (const detail of from.details) {
    if (detail.typeUrl !== ERROR_INFO_TYPE) continue;
    const info = ErrorInfo.decode(detail.value);
    if (info.domain === ERROR_DOMAIN && isReason(info.reason)) {
      return new HoldfastError(info.reason, from.message, { metadata: { ...info.metadata } });
    }
  }
  return new HoldfastError(reasonOfCode(from.code), from.message);
}

/** The error in the form that grpc-js sends: code, details and the status in the trailers. */
export function toServiceError(error: unknown): ServiceError {
  const sent = toStatus(error);
  const metadata = new Metadata();
  metadata.set(DETAILS_KEY, Buffer.from(Status.encode(sent).finish()));
  return Object.assign(new Error(sent.message), {
    code: sent.code,
    details: sent.message,
    metadata,
  });
}

/** Whether a value is an error as grpc-js gives it to a client. */
export function isServiceError(error: unknown): error is ServiceError {
  return (
    error instanceof Error && 'code' in error && 'metadata' in error && error.metadata instanceof Metadata
  );
}

/** The HoldfastError behind an error that a grpc-js client received; anything else is passed through. */
export function fromServiceError(error: unknown): Error {
  if (!isServiceError(error)) return error instanceof Error ? error : new Error(String(error));
  const [packed] = error.metadata.get(DETAILS_KEY);
  if (packed instanceof Buffer) return fromStatus(Status.decode(packed));
  return new HoldfastError(reasonOfCode(error.code), error.details || error.message);
}

/** For errors that gRPC itself makes and that carry no ErrorInfo. */
function reasonOfCode(code: number): Reason {
  switch (code as status) {
    case status.UNAVAILABLE:
    case status.DEADLINE_EXCEEDED:
      return 'AGENT_UNREACHABLE';
    case status.CANCELLED:
      return 'CANCELLED';
    case status.INVALID_ARGUMENT:
    case status.UNIMPLEMENTED:
      return 'INVALID_REQUEST';
    case status.RESOURCE_EXHAUSTED:
      // The one limit that gRPC itself watches.
      return 'MESSAGE_TOO_LARGE';
    default:
      return 'INTERNAL';
  }
}
