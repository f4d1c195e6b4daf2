import { InvalidArgumentError, type Command } from 'commander';
import { parseAddress } from './address.ts';
import type { FrontOptions } from './front.ts';
import { DEFAULT_LIMITS } from './gate.ts';

/** What the options below give. */
export interface GivenFrontOptions {
  readonly tlsDirectory?: string;
  readonly metricsListen?: string;
  readonly reflection: boolean;
  readonly maxCallsPerSecond: number;
  readonly maxStreamsPerCaller: number;
  readonly maxStreams: number;
}

/** Adds the options of a service's front to its command line. */
export function withFrontOptions(command: Command): Command {
  const { callsPerSecond, streamsPerCaller, streams } = DEFAULT_LIMITS;
  return command
    .option(
      '--tls-directory <directory>',
      'ca.crt, tls.crt and tls.key: TCP ports speak TLS, and other machines may call',
    )
    .option('--metrics-listen <address>', 'serve metrics for Prometheus at this loopback HOST:PORT')
    .option('--no-reflection', 'do not tell callers of the contract')
    .option('--max-calls-per-second <number>', 'of each caller', positive, callsPerSecond)
    .option('--max-streams-per-caller <number>', 'open at the same time', positive, streamsPerCaller)
    .option('--max-streams <number>', 'open at the same time, in all', positive, streams);
}

/** @throws HoldfastError INVALID_REQUEST for an address that is none */
export function frontOptions(given: GivenFrontOptions): FrontOptions {
  return {
    tlsDirectory: given.tlsDirectory,
    metricsListen: given.metricsListen === undefined ? undefined : parseAddress(given.metricsListen),
    reflection: given.reflection,
    limits: {
      callsPerSecond: given.maxCallsPerSecond,
      streamsPerCaller: given.maxStreamsPerCaller,
      streams: given.maxStreams,
    },
  };
}

function positive(text: string): number {
  const number = Number(text);
  if (Number.isSafeInteger(number) && number > 0) return number;
  throw new InvalidArgumentError('It must be a whole number above 0.');
}
