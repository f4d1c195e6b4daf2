import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { beginBackup, runningBackup } from './backupJob.ts';
import { endInQemu, isReleased } from './lostBackup.ts';
import { child, element, parseXml, printXml } from './xml.ts';
import type { Virsh } from './virsh.ts';

export interface PullBackup {
  readonly uuid: string;
  /** The unix socket on which QEMU shall offer the disks, each under its target name. */
  readonly socket: string;
  /** A directory on local disk for what the guest overwrites while the backup runs. */
  readonly scratchDirectory: string;
  /** The disks to back up, by target name. */
  readonly targets: readonly string[];
  /** The domain's other disks. */
  readonly excluded: readonly string[];
}

/**
 * Starts a pull-mode backup: from this instant on QEMU offers all disks as they are now (libvirt.org/formatbackup.html).
 *
 * @throws HoldfastError DOMAIN_BUSY when the domain has a backup or another such job, LIBVIRT_FAILED otherwise.
 */
export async function beginPullBackup(virsh: Virsh, backup: PullBackup, signal: AbortSignal): Promise<void> {
  await mkdir(backup.scratchDirectory, { recursive: true, mode: 0o711 });
  const file = join(backup.scratchDirectory, 'backup.xml');
  await beginBackup(virsh, backup.uuid, backupXml(backup), file, [], signal);
}

/**
 * Ends the pull backup that offers its disks on `socket`, if it still runs, also when libvirt does not know of it. Another one
 * is not touched.
 *
 * A write of the guest that found no scratch space has stopped the guest (QEMU's werror=enospc). With the backup ended,
 * nothing of it is kept any more: QEMU writes it once again as the guest is resumed.
 *
 * @param scratchDirectory undefined when it is not known, as in journals of earlier versions
 */
export async function endPullBackup(
  virsh: Virsh,
  uuid: string,
  socket: string,
  scratchDirectory: string | undefined,
): Promise<void> {
  const isOurs = (path: string): boolean =>
    scratchDirectory !== undefined && path.startsWith(`${scratchDirectory}/`);
  for (const isLast of [false, true]) {
    const isKnown = (await runningBackup(virsh, uuid))?.includes(socket) === true;
    if (isKnown) await virsh.command(['domjobabort', uuid]);
    // One that libvirt was asked for in the last moment may have begun meanwhile.
    if (await isReleased(virsh, uuid, isOurs)) break;
    // What libvirt knows it ends itself, as soon as QEMU can: that may wait for its storage.
    if (isLast && !isKnown) await endInQemu(virsh, uuid, isOurs);
  }
  const { stdout } = await virsh.attempt(['domstate', uuid, '--reason']);
  if (stdout.trim() === 'paused (I/O error)') await virsh.command(['resume', uuid]);
}

function backupXml(backup: PullBackup): string {
  const root = parseXml('<domainbackup mode="pull"><server transport="unix"/><disks/></domainbackup>');
  child(root, 'server')?.setAttribute('socket', backup.socket);
  const disks = child(root, 'disks');
  for (const target of backup.targets) {
    const disk = element(root, 'disk', { name: target, backup: 'yes', type: 'file', exportname: target });
    // libvirt takes nothing but qcow2 for scratch.
    disk.appendChild(element(root, 'driver', { type: 'qcow2' }));
    disk.appendChild(element(root, 'scratch', { file: join(backup.scratchDirectory, `${target}.qcow2`) }));
    disks?.appendChild(disk);
  }
  for (const target of backup.excluded)
    disks?.appendChild(element(root, 'disk', { name: target, backup: 'no' }));
  return printXml(root);
}
