/**
 * The program behind a ThawGuard: it is started before a guest is frozen, and thaws it when its parent cannot.
 *
 *     thawer.ts JOB-RUNTIME-DIRECTORY LIBVIRT-URI DOMAIN-UUID LIMIT-MS
 *
 * It says `ready` over the IPC channel of child_process.fork, and is told ThawerMessages. It ends when the guest is known
 * to be thawed, and tries for an hour.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { createLogger } from '@holdfast/common/logger.ts';
import { thaw } from './freeze.ts';
import type { ThawerMessage } from './thawGuard.ts';
import { virshAt } from './virsh.ts';

const GIVE_UP_MS = 3_600_000;
/**
 * After the parent's death the guest is thawed twice: a freeze that libvirt was asked for in the last moment may come
 * after the first time.
 */
const SECOND_TIME_MS = 2_000;

const [, uri, domainUuid, limit] = process.argv.slice(2);
if (process.send === undefined || uri === undefined || domainUuid === undefined || limit === undefined)
  throw new Error('started by a runner only');
const uuid = domainUuid;

const logger = createLogger({ level: 'info', format: 'json' }, { service: 'thawer', domain: uuid });
const virsh = virshAt(uri, logger);
let isFrozen = false;

process.on('message', (message: ThawerMessage) => {
  if (message === 'thawed') process.exit(0);
  isFrozen = true;
  setTimeout(() => {
    logger.warn('the freeze has lasted too long', { limitMs: Number(limit) });
    // The parent, should it still be there, thaws too and says so.
    void untilThawed();
  }, Number(limit));
});
process.on('disconnect', () => {
  if (!isFrozen) process.exit(0);
  logger.warn('the runner is gone with the guest frozen');
  void untilThawed()
    .then(() => sleep(SECOND_TIME_MS))
    .then(untilThawed)
    .then(() => process.exit(0));
});
process.send('ready');

async function untilThawed(): Promise<void> {
  const deadlineMs = performance.now() + GIVE_UP_MS;
  for (;;) {
    try {
      await thaw(virsh, uuid);
      logger.info('thawed');
      return;
    } catch (error) {
      logger.error('could not thaw', { error });
    }
    if (performance.now() > deadlineMs) process.exit(1);
  }
}
