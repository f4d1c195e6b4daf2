import { setTimeout as sleep } from 'node:timers/promises';
import { HoldfastError } from '@holdfast/common/errors.ts';
import { runningBackup } from '../libvirt/backupJob.ts';
import { endInQemu, isReleased } from '../libvirt/lostBackup.ts';
import type { Virsh } from '../libvirt/virsh.ts';
import { forceUnmount } from '../process/mounts.ts';
import { killStorageDaemon, stopStorageDaemon } from '../qemu/storageDaemon.ts';

/** What a push backup has to end: known before any of it is made. */
export interface PushUndo {
  readonly domainUuid: string;
  /** The mount points to which QEMU writes. */
  readonly exports: readonly string[];
  /** The directories of the daemon that serves them and of the one behind it that writes to the repository. */
  readonly exporter: string;
  readonly writer: string;
}

/** An abort waits for the writes that are under way, which an exporter that hangs does not answer. */
const ABORT_DEADLINE_MS = 3_000;

/**
 * Ends a push backup, if it still runs, also when libvirt does not know of it, and everything that it writes through. In this order no write of the guest fails:
 * the exporter answers them all as long as the job runs, also when the writer behind it is dead. What was written until
 * then is of no use, so the writer is not waited for.
 */
export async function endPushBackup(virsh: Virsh, push: PushUndo): Promise<void> {
  const steps: readonly (() => Promise<void>)[] = [
    () => killStorageDaemon(push.writer),
    // The last resort: a write of the guest that waits for it fails, but waits no longer.
    async () => {
      for (const path of push.exports) await forceUnmount(path);
    },
  ];
  let ended = !(await isRunning(virsh, push));
  for (const step of steps) {
    if (ended) break;
    await step();
    ended = await abort(virsh, push);
  }
  if (!ended) {
    throw new HoldfastError('LIBVIRT_FAILED', `The backup job of domain ${push.domainUuid} does not end.`);
  }
  for (const path of push.exports) await forceUnmount(path);
  await stopStorageDaemon(push.exporter);
}

async function isRunning(virsh: Virsh, push: PushUndo): Promise<boolean> {
  return (await isKnown(virsh, push)) || !(await isReleased(virsh, push.domainUuid, isExportOf(push)));
}

async function isKnown(virsh: Virsh, push: PushUndo): Promise<boolean> {
  return (await runningBackup(virsh, push.domainUuid))?.some(isExportOf(push)) === true;
}

function isExportOf(push: PushUndo): (path: string) => boolean {
  return (path) => push.exports.includes(path);
}

async function abort(virsh: Virsh, push: PushUndo): Promise<boolean> {
  const deadline = Date.now() + ABORT_DEADLINE_MS;
  await (
    (await isKnown(virsh, push))
      ? virsh.attempt(['domjobabort', push.domainUuid], { deadlineMs: ABORT_DEADLINE_MS })
      : endInQemu(virsh, push.domainUuid, isExportOf(push))
  ).catch(() => undefined);
  for (;;) {
    if (!(await isRunning(virsh, push))) return true;
    if (Date.now() > deadline) return false;
    await sleep(50);
  }
}
