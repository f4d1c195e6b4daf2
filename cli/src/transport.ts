import { status } from '@grpc/grpc-js';
import { isServiceError } from '@holdfast/common/errors.ts';

/** Codes with which gRPC itself says that a connection was refused, lost or cut. */
const BROKEN: ReadonlySet<status> = new Set([
  status.UNAVAILABLE,
  status.DEADLINE_EXCEEDED,
  // A server that is stopped at once resets its streams with CANCEL or INTERNAL_ERROR.
  status.CANCELLED,
  status.INTERNAL,
  status.UNKNOWN,
]);

/** Whether an error was made by the connection and not by the service, which adds details to all of its own. */
export function isFromTransport(error: unknown): boolean {
  return (
    isServiceError(error) &&
    BROKEN.has(error.code) &&
    error.metadata.get('grpc-status-details-bin').length === 0
  );
}
