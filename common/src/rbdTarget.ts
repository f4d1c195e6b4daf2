import { isAbsolute } from 'node:path';
import type { RbdTarget } from '@holdfast/proto/holdfast/v1/backup.ts';
import { HoldfastError } from './errors.ts';
import { isUuid } from './uuid.ts';

const MONITOR = /^(?:[\w.-]+|\[[\da-f:]+\]):\d{1,5}$/i;

/**
 * Refuses a target whose parts cannot be what they are called: each becomes a part of an argument or of `pool/image`.
 *
 * @throws HoldfastError INVALID_REQUEST
 */
export function requireRbdTarget(target: RbdTarget): void {
  const { pool, namespace, monitors, user, secretUuid, confPath } = target;
  if (pool === '') throw refuse('rbd.pool is missing.');
  for (const [name, text] of Object.entries({ pool, namespace, user })) {
    if (/[/@\s\0]|^-/.test(text) || !text.isWellFormed()) {
      throw refuse(
        `rbd.${name} must have no slash, @ or space and not begin with a dash: ${JSON.stringify(text)}.`,
      );
    }
  }
  for (const monitor of monitors)
    if (!MONITOR.test(monitor))
      throw refuse(`rbd.monitors must be HOST:PORT each, not ${JSON.stringify(monitor)}.`);
  if (secretUuid !== '' && !isUuid(secretUuid)) throw refuse('rbd.secret_uuid must be a UUID in lower case.');
  if (confPath !== '' && (!isAbsolute(confPath) || confPath.includes('\0')))
    throw refuse('rbd.conf_path must be an absolute path.');
}

function refuse(message: string): HoldfastError {
  return new HoldfastError('INVALID_REQUEST', message);
}
