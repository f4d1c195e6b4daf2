import { fileURLToPath } from 'node:url';
import { HoldfastError } from '@holdfast/common/errors.ts';
import { startGuardian } from '../process/guardian.ts';
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

const PROGRAM = fileURLToPath(new URL('./thawer.ts', import.meta.url));

/**
 * Starts a guard; it is ready when this returns.
 *
 * @param directory the job's runtime directory
 * @throws HoldfastError QUIESCE_FAILED when it cannot be started; nothing must be frozen then
 */
export async function startThawGuard(
  uri: string,
  uuid: string,
  directory: string,
  signal: AbortSignal,
): Promise<ThawGuard> {
  const args = [directory, uri, uuid, String(FREEZE_LIMIT_MS)];
  const guardian = await startGuardian(PROGRAM, args, signal).catch((error: unknown) => {
    signal.throwIfAborted();
    throw new HoldfastError(
      'QUIESCE_FAILED',
      `Nothing was frozen, since the process that would thaw it in an emergency could not be started: ${String(error)}.`,
      { cause: error },
    );
  });
  const tell = (message: ThawerMessage): void => {
    guardian.tell(message);
  };
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
