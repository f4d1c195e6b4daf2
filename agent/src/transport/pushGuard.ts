import { fileURLToPath } from 'node:url';
import { HoldfastError } from '@holdfast/common/errors.ts';
import { startGuardian } from '../process/guardian.ts';
import type { PushUndo } from './endPushBackup.ts';

/**
 * A process that ends a push backup when the runner dies, whatever dies with it: while libvirt's job runs, writes of the
 * guest wait for the repository.
 */
export interface PushGuard {
  /** To be called when it is known that libvirt's job has ended. */
  release(): void;
}

const PROGRAM = fileURLToPath(new URL('./pushEnder.ts', import.meta.url));

/**
 * Starts a guard; it is ready when this returns.
 *
 * @param directory the job's runtime directory
 * @throws HoldfastError PUSH_UNUSABLE when it cannot be started; no push must be begun then
 */
export async function startPushGuard(
  uri: string,
  push: PushUndo,
  directory: string,
  signal: AbortSignal,
): Promise<PushGuard> {
  const args = [directory, uri, JSON.stringify(push)];
  const guardian = await startGuardian(PROGRAM, args, signal).catch((error: unknown) => {
    signal.throwIfAborted();
    throw new HoldfastError(
      'PUSH_UNUSABLE',
      `Nothing was pushed, since the process that would end it in an emergency could not be started: ${String(error)}.`,
      { cause: error },
    );
  });
  return {
    release: () => {
      guardian.tell('ended');
    },
  };
}
