import { status } from '@grpc/grpc-js';
import { fromServiceError, HoldfastError, isServiceError } from '@holdfast/common/errors.ts';
import type { ActiveOperation } from './journal.ts';

/** What an error on an agent's stream means for the operation. */
export type Judgement = { readonly kind: 'retry' } | { readonly kind: 'fail'; readonly error: HoldfastError };

const RETRY: Judgement = { kind: 'retry' };

/**
 * Decides whether to try again. What breaks a connection says nothing of the job, which goes on at the agent; only what
 * the agent itself says of the job ends the operation.
 */
export function judge(
  thrown: unknown,
  { operation, accepted, cancelWanted }: Pick<ActiveOperation, 'operation' | 'accepted' | 'cancelWanted'>,
): Judgement {
  const error = fromServiceError(thrown);
  if (!(error instanceof HoldfastError)) return RETRY;
  if (isServiceError(thrown) && !isDeliberate(thrown.metadata.get('grpc-status-details-bin'))) {
    // Made by gRPC, not by the agent. A start that can never arrive must not be repeated for ever.
    return !accepted && isHopeless(thrown.code) ? { kind: 'fail', error } : RETRY;
  }
  switch (error.reason) {
    case 'AGENT_UNREACHABLE':
    case 'SHUTTING_DOWN':
      return RETRY;
    case 'INTERNAL':
      return accepted ? RETRY : { kind: 'fail', error };
    case 'JOB_NOT_FOUND':
      return { kind: 'fail', error: cancelWanted ? cancelled() : jobLost(operation.host) };
    default:
      return { kind: 'fail', error };
  }
}

/** The error with which an operation ends that was cancelled on request. */
export function cancelled(): HoldfastError {
  return new HoldfastError('CANCELLED', 'The operation was cancelled on request.');
}

function jobLost(host: string): HoldfastError {
  return new HoldfastError(
    'RUNNER_DIED',
    `The agent of host ${host} does not know the job any more; whatever it had made is not a backup. What may be left of ` +
      'it is shown by: holdfast doctor',
    { metadata: { host } },
  );
}

function isDeliberate(details: readonly unknown[]): boolean {
  return details.length > 0;
}

function isHopeless(code: status): boolean {
  switch (code) {
    case status.INVALID_ARGUMENT:
    case status.OUT_OF_RANGE:
    case status.PERMISSION_DENIED:
    case status.RESOURCE_EXHAUSTED:
    case status.UNAUTHENTICATED:
    case status.UNIMPLEMENTED:
      return true;
    default:
      return false;
  }
}
