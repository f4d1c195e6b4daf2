/**
 * The program behind a PushGuard: it is started before a push begins, and ends it when its parent is gone.
 *
 *     pushEnder.ts JOB-RUNTIME-DIRECTORY LIBVIRT-URI PUSH-AS-JSON
 *
 * It says `ready` over the IPC channel of child_process.fork, and is told when the push has ended. Otherwise it ends
 * when it has ended the push itself, and tries for an hour.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { createLogger } from '@holdfast/common/logger.ts';
import { virshAt } from '../libvirt/virsh.ts';
import { killStorageDaemon } from '../qemu/storageDaemon.ts';
import { endPushBackup, type PushUndo } from './endPushBackup.ts';

const GIVE_UP_MS = 3_600_000;
const RETRY_MS = 1_000;
/** A backup that libvirt was asked for in the last moment may begin after the first time. */
const SECOND_TIME_MS = 2_000;

const [, uri, text] = process.argv.slice(2);
if (process.send === undefined || uri === undefined || text === undefined)
  throw new Error('started by a runner only');
const push = JSON.parse(text) as PushUndo;

const logger = createLogger(
  { level: 'info', format: 'json' },
  { service: 'push-ender', domain: push.domainUuid },
);
const virsh = virshAt(uri, logger);

process.on('message', () => {
  process.exit(0);
});
process.on('disconnect', () => {
  void untilEnded()
    .then(() => sleep(SECOND_TIME_MS))
    .then(untilEnded)
    .then(() => process.exit(0));
});
process.send('ready');

async function untilEnded(): Promise<void> {
  const deadlineMs = performance.now() + GIVE_UP_MS;
  for (;;) {
    try {
      // Nobody will publish what it has written. Without it the exporter answers, and the guest waits no longer.
      await killStorageDaemon(push.writer);
      await endPushBackup(virsh, push);
      logger.info('the push has ended');
      return;
    } catch (error) {
      logger.error('could not end the push', { error });
    }
    if (performance.now() > deadlineMs) process.exit(1);
    await sleep(RETRY_MS);
  }
}
