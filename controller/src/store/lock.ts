import { HoldfastError } from '@holdfast/common/errors.ts';
import { lockAlone, type FileLock } from '@holdfast/common/fileLock.ts';

/**
 * Makes this process the only controller on a state directory, until `release` or its end, however it ends.
 *
 * @throws HoldfastError IN_USE when another controller has it.
 */
export function lockState(path: string): FileLock {
  const lock = lockAlone(path);
  if (lock !== undefined) return lock;
  throw new HoldfastError('IN_USE', `Another controller works on ${path.replace(/\/[^/]*$/, '')}.`);
}
