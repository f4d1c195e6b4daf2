import { fork } from 'node:child_process';
import { once } from 'node:events';

/**
 * A process that is started before something dangerous is done, and that undoes it when this process cannot: it is in a
 * session of its own, holds one end of a channel (IPC of child_process.fork), and acts when that ends. Its first message
 * says that it is ready.
 */
export interface Guardian {
  /** It is told no more when it is gone. */
  tell(message: string): void;
}

const START_DEADLINE_MS = 30_000;

/**
 * Starts a guardian; it is ready when this returns.
 *
 * @param args of the program; one of them is in the job's runtime directory, by which people see to whom the process belongs
 * @throws Error when it cannot be started, whose message is the reason, or the reason of the signal
 */
export async function startGuardian(
  program: string,
  args: readonly string[],
  signal: AbortSignal,
): Promise<Guardian> {
  const child = fork(program, args, {
    detached: true,
    stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
    execArgv: [],
  });
  child.on('error', () => undefined);
  const deadline = AbortSignal.timeout(START_DEADLINE_MS);
  try {
    await Promise.race([
      once(child, 'message', { signal: AbortSignal.any([signal, deadline]) }),
      once(child, 'exit').then(() => Promise.reject(new Error('it ended'))),
    ]);
  } catch (error) {
    child.kill('SIGKILL');
    signal.throwIfAborted();
    if (deadline.aborted)
      throw new Error(`it was not ready within ${START_DEADLINE_MS} ms`, { cause: error });
    throw error;
  }
  return {
    tell: (message) => {
      if (child.connected) child.send(message, () => undefined);
    },
  };
}
