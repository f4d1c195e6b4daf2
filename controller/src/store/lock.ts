import { DatabaseSync } from 'node:sqlite';
import { HoldfastError } from '@holdfast/common/errors.ts';

/**
 * Makes this process the only controller on a state directory, until `release` or its end, however it ends: the lock is
 * the operating system's on a file, taken through SQLite since Node has no flock.
 *
 * @throws HoldfastError IN_USE when another controller has it.
 */
export function lockState(path: string): { release(): void } {
  const database = new DatabaseSync(path, { timeout: 0 });
  try {
    database.exec('begin exclusive');
  } catch (cause) {
    database.close();
    throw new HoldfastError('IN_USE', `Another controller works on ${path.replace(/\/[^/]*$/, '')}.`, {
      cause,
    });
  }
  return {
    release: () => {
      database.close();
    },
  };
}
