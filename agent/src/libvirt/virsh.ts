import { setTimeout as sleep } from 'node:timers/promises';
import { HoldfastError } from '@holdfast/common/errors.ts';
import type { Logger } from '@holdfast/common/logger.ts';
import { ProgramFailed, run, type RunResult } from '../process/run.ts';

/** libvirt, reached through its own client. */
export interface Virsh {
  /**
   * Runs a virsh command and returns its standard output, without the blank lines at its end.
   *
   * @throws HoldfastError LIBVIRT_FAILED with virsh's own sentence when it refuses.
   */
  command(args: readonly string[], options?: VirshOptions): Promise<string>;
  /** The same, for commands that may well be refused: never throws for an exit code. */
  attempt(args: readonly string[], options?: VirshOptions): Promise<RunResult>;
  /** The URI of the libvirt daemon. */
  readonly uri: string;
  /** What ends all its commands. */
  readonly signal?: AbortSignal | undefined;
}

export interface VirshOptions {
  readonly deadlineMs?: number;
  /** For how long it is tried to reach a libvirtd that is not there, such as one that is restarted. */
  readonly patienceMs?: number;
  /** Tables with the headings that people expect. */
  readonly headings?: boolean;
  readonly signal?: AbortSignal;
}

/** A libvirtd that is busy with a domain may take a while; one that never answers must not hold a job for ever. */
const DEADLINE_MS = 60_000;

const RECONNECT_PAUSE_MS = 250;

/**
 * @param usually for commands that say nothing else: `patienceMs`, and `signal`, which kills what runs when it aborts, and lets
 *   nothing begin
 */
export function virshAt(
  uri: string,
  logger: Logger,
  usually: Pick<VirshOptions, 'patienceMs' | 'signal'> = {},
): Virsh {
  const attempt = async (args: readonly string[], options: VirshOptions = {}): Promise<RunResult> => {
    const {
      deadlineMs = DEADLINE_MS,
      patienceMs = usually.patienceMs ?? 0,
      signal = usually.signal,
    } = options;
    logger.debug('virsh', { command: args.join(' ') });
    const quiet = options.headings === true ? [] : ['--quiet'];
    const startedMs = performance.now();
    try {
      for (;;) {
        const elapsedMs = Math.round(performance.now() - startedMs);
        const result = await run('virsh', [...quiet, '--connect', uri, ...args], {
          deadlineMs: Math.max(deadlineMs - elapsedMs, RECONNECT_PAUSE_MS),
          signal,
        });
        const isThere = result.exitCode === 0 || !/failed to connect to the hypervisor/i.test(result.stderr);
        // Nothing was asked of it yet, so it can be asked again.
        if (isThere || elapsedMs > Math.min(patienceMs, deadlineMs - RECONNECT_PAUSE_MS)) return result;
        await sleep(RECONNECT_PAUSE_MS, undefined, { signal });
      }
    } catch (error) {
      if (!(error instanceof ProgramFailed)) throw error;
      throw new HoldfastError('LIBVIRT_FAILED', `virsh ${args[0] ?? ''} failed: ${error.message}`, {
        cause: error,
      });
    }
  };
  return {
    uri,
    signal: usually.signal,
    attempt,
    command: async (args, options) => {
      const result = await attempt(args, options);
      if (result.exitCode !== 0) {
        throw new HoldfastError('LIBVIRT_FAILED', `virsh ${args[0] ?? ''}: ${sentence(result.stderr)}`);
      }
      return result.stdout.replace(/\n+$/, '');
    },
  };
}

/** What virsh says, without its "error: " prefixes. */
export function sentence(stderr: string): string {
  return stderr
    .split('\n')
    .map((line) => line.replace(/^error: /, '').trim())
    .filter((line) => line !== '')
    .join(' ');
}
