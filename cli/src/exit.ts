import { status } from '@grpc/grpc-js';
import { HoldfastError } from '@holdfast/common/errors.ts';
import type { Reason } from '@holdfast/common/reasons.ts';
import { CommandError } from './command-error.ts';

/** What each exit code means. Never changes: scripts depend on it. */
export const ExitCode = {
  SUCCESS: 0,
  FAILED: 1,
  INVALID: 2,
  NOT_FOUND: 3,
  CONFLICT: 4,
  UNAVAILABLE: 5,
  DAMAGED: 6,
  NO_SPACE: 7,
  CANCELLED: 8,
  LEFTOVERS: 9,
  DENIED: 10,
  INTERRUPTED: 130,
} as const;

export type ExitCode = (typeof ExitCode)[keyof typeof ExitCode];

const meanings: Readonly<Record<ExitCode, string>> = {
  [ExitCode.SUCCESS]: 'success; with --detach: the operation was started',
  [ExitCode.FAILED]: 'any other failure',
  [ExitCode.INVALID]: 'the command or the request is not valid, or the passphrase is wrong',
  [ExitCode.NOT_FOUND]: 'no such zone, host, repository, domain, disk, backup or operation',
  [ExitCode.CONFLICT]: 'busy, exists already, or not possible in this state',
  [ExitCode.UNAVAILABLE]:
    'the controller, an agent, libvirt, QEMU or the repository is out of reach, overloaded or failed',
  [ExitCode.DAMAGED]: 'a check found damaged data',
  [ExitCode.NO_SPACE]: 'no space left on the repository or for scratch files',
  [ExitCode.CANCELLED]: 'the operation was cancelled',
  [ExitCode.LEFTOVERS]: 'doctor found leftovers, or could not remove all of them',
  [ExitCode.DENIED]: 'the certificate is not accepted, or gives no right to this',
  [ExitCode.INTERRUPTED]: 'interrupted (SIGINT, SIGTERM): an operation that was followed goes on',
};

/** The table of exit codes for --help. */
export const exitCodeHelp = [
  'Exit codes:',
  ...Object.values(ExitCode).map((code) => `  ${String(code).padEnd(5)}${meanings[code]}`),
].join('\n');

/** Limits on what callers do; the other things that are exhausted are space. */
const BOUNDS: ReadonlySet<Reason> = new Set([
  'RATE_LIMITED',
  'TOO_MANY_STREAMS',
  'PAGE_TOO_LARGE',
  'MESSAGE_TOO_LARGE',
]);

/** The exit code for whatever ended a command. */
export function exitCodeOf(error: unknown): ExitCode {
  if (error instanceof CommandError) return error.exitCode;
  if (!(error instanceof HoldfastError)) return ExitCode.FAILED;
  return BOUNDS.has(error.reason) ? ExitCode.UNAVAILABLE : exitCodeOfStatus(error.code);
}

/** The exit code for a gRPC status code. */
export function exitCodeOfStatus(code: number): ExitCode {
  switch (code as status) {
    case status.OK:
      return ExitCode.SUCCESS;
    case status.INVALID_ARGUMENT:
    case status.OUT_OF_RANGE:
      return ExitCode.INVALID;
    case status.NOT_FOUND:
      return ExitCode.NOT_FOUND;
    case status.ALREADY_EXISTS:
    case status.FAILED_PRECONDITION:
    case status.ABORTED:
      return ExitCode.CONFLICT;
    case status.UNAVAILABLE:
    case status.DEADLINE_EXCEEDED:
      return ExitCode.UNAVAILABLE;
    case status.DATA_LOSS:
      return ExitCode.DAMAGED;
    case status.RESOURCE_EXHAUSTED:
      return ExitCode.NO_SPACE;
    case status.CANCELLED:
      return ExitCode.CANCELLED;
    case status.UNAUTHENTICATED:
    case status.PERMISSION_DENIED:
      return ExitCode.DENIED;
    default:
      return ExitCode.FAILED;
  }
}
