import { execa } from 'execa';

export interface RunOptions {
  /** The program is killed after this time. */
  readonly deadlineMs: number;
  /** Kills the program when it aborts. */
  readonly signal?: AbortSignal | undefined;
}

export interface RunResult {
  readonly exitCode: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** A program could not be started, was killed, or took too long. A plain exit code, whatever it is, is not one. */
export class ProgramFailed extends Error {
  override readonly name = 'ProgramFailed';
  /** Whether there is no such program on this host. */
  readonly isMissing: boolean;
  constructor(message: string, isMissing = false) {
    super(message);
    this.isMissing = isMissing;
  }
}

/** Arguments of setpriv(1): whoever is killed must not leave programs behind that nobody waits for. */
export const DIES_WITH_PARENT = ['--pdeathsig', 'KILL', '--'] as const;

/**
 * Runs a program to its end, without a shell, with messages in English.
 *
 * @throws ProgramFailed without the arguments in its message.
 */
export async function run(file: string, args: readonly string[], options: RunOptions): Promise<RunResult> {
  const result = await execa('setpriv', [...DIES_WITH_PARENT, file, ...args], {
    reject: false,
    env: { LC_ALL: 'C.UTF-8' },
    stdin: 'ignore',
    timeout: options.deadlineMs,
    forceKillAfterDelay: 2_000,
    killDescendants: true,
    stripFinalNewline: false,
    ...(options.signal === undefined ? {} : { cancelSignal: options.signal }),
  });
  options.signal?.throwIfAborted();
  if (result.exitCode === undefined) {
    const why = result.timedOut
      ? `did not end within ${options.deadlineMs} ms`
      : (result.code ?? result.signal);
    throw new ProgramFailed(`${file} ${args[0] ?? ''}: ${why ?? 'failed'}`);
  }
  if (result.exitCode === 127 && result.stderr.startsWith('setpriv:')) {
    throw new ProgramFailed(`${file} cannot be run: ${result.stderr.trim()}`, true);
  }
  return { exitCode: result.exitCode, stdout: result.stdout, stderr: result.stderr };
}
