import type { ExitCode } from './exit.ts';

/** A failure that the command itself found, before or beside what a service answered. */
export class CommandError extends Error {
  override readonly name = 'CommandError';
  /** A constant, for programs. */
  readonly reason: 'USAGE' | 'CONTROLLER_UNREACHABLE' | 'LEFTOVERS' | 'INTERRUPTED';
  readonly exitCode: ExitCode;

  constructor(reason: CommandError['reason'], message: string) {
    super(message);
    this.reason = reason;
    this.exitCode = exitCodes[reason];
  }
}

/** The command line says something that cannot be done; the message says what to type instead. */
export function usage(message: string): CommandError {
  return new CommandError('USAGE', message);
}

const exitCodes: Readonly<Record<CommandError['reason'], ExitCode>> = {
  USAGE: 2,
  CONTROLLER_UNREACHABLE: 5,
  LEFTOVERS: 9,
  INTERRUPTED: 130,
};
