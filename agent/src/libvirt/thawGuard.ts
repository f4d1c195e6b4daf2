import { fork } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { HoldfastError } from '@holdfast/common/errors.ts';
import { FREEZE_LIMIT_MS } from './freeze.ts';

/** What its program is told: that the freeze begins, or that the guest is known to be thawed. */
export type ThawerMessage = 'freezing' | 'thawed';

/**
 * A process that thaws a guest when whoever has frozen it cannot: when that process dies, whatever dies with it, and when
 * the freeze has lasted for FREEZE_LIMIT_MS.
 */
export interface ThawGuard {
  /** To be called right before the freeze: the time runs from now on. */
  freezing(): void;
  /** Whether the freeze has not lasted too long until now; otherwise the guest may have been thawed meanwhile. */
  isInTime(): boolean;
  /** To be called when it is known that nothing is frozen any more. */
  release(): void;
}

const START_DEADLINE_MS = 30_000;
const PROGRAM = fileURLToPath(new URL('./thawer.ts', import.meta.url));

/**
 * Starts a guard; it is ready when this returns.
 *
 * @param directory the job's runtime directory, by which people see to whom the process belongs
 * @throws HoldfastError QUIESCE_FAILED when it cannot be started; nothing must be frozen then
 */
export async function startThawGuard(
  uri: string,
  uuid: string,
  directory: string,
  signal: AbortSignal,
): Promise<ThawGuard> {
  const child = fork(PROGRAM, [directory, uri, uuid, String(FREEZE_LIMIT_MS)], {
    // In a session of its own, since it must outlive this process.
    detached: true,
    stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
    execArgv: [],
  });
  // It is told no more when it is gone.
  child.on('error', () => undefined);
  const tell = (message: ThawerMessage): void => {
    if (child.connected) child.send(message, () => undefined);
  };
  const deadline = AbortSignal.timeout(START_DEADLINE_MS);
  try {
    // Its first message says that it is ready.
    await Promise.race([
      once(child, 'message', { signal: AbortSignal.any([signal, deadline]) }),
      once(child, 'exit').then(() => Promise.reject(new Error('it ended'))),
    ]);
  } catch (error) {
    child.kill('SIGKILL');
    signal.throwIfAborted();
    const why = deadline.aborted ? `it was not ready within ${START_DEADLINE_MS} ms` : String(error);
    throw new HoldfastError(
      'QUIESCE_FAILED',
      `Nothing was frozen, since the process that would thaw it in an emergency could not be started: ${why}.`,
      { cause: error },
    );
  }
  let startedMs = 0;
  return {
    freezing: () => {
      startedMs = performance.now();
      tell('freezing');
    },
    isInTime: () => performance.now() - startedMs < FREEZE_LIMIT_MS,
    release: () => {
      tell('thawed');
    },
  };
}
