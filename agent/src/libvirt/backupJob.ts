import { writeFile } from 'node:fs/promises';
import { HoldfastError } from '@holdfast/common/errors.ts';
import { sentence, type Virsh } from './virsh.ts';
import { children, child, parseXml } from './xml.ts';

/**
 * Starts a backup job of a domain (libvirt.org/formatbackup.html).
 *
 * @param file where the XML is written for virsh
 * @throws HoldfastError DOMAIN_BUSY when the domain has a backup or another such job, LIBVIRT_FAILED otherwise.
 */
export async function beginBackup(
  virsh: Virsh,
  uuid: string,
  xml: string,
  file: string,
  flags: readonly string[],
  signal: AbortSignal,
): Promise<void> {
  await writeFile(file, xml, { mode: 0o600 });
  signal.throwIfAborted();
  // Not killed by the signal: libvirtd would begin the backup all the same, after whoever ends it has found none.
  const result = await virsh.attempt(['backup-begin', uuid, file, ...flags]);
  signal.throwIfAborted();
  if (result.exitCode === 0) return;
  const said = sentence(result.stderr);
  throw /another job|already (active|running)|has active|operation unsupported.*block job/i.test(said)
    ? new HoldfastError('DOMAIN_BUSY', `libvirt is busy with the domain, try again later: ${said}`)
    : new HoldfastError('LIBVIRT_FAILED', `libvirt could not start the backup: ${said}`);
}

/**
 * The paths by which the domain's running backup is known: the socket and the scratch images of a pull, the targets of a
 * push; undefined without one.
 */
export async function runningBackup(virsh: Virsh, uuid: string): Promise<readonly string[] | undefined> {
  const result = await virsh.attempt(['backup-dumpxml', uuid]);
  if (result.exitCode !== 0) {
    const said = sentence(result.stderr);
    // Only these say that there is none; a libvirtd that does not answer says nothing about it.
    if (/no domain backup job|not running|domain not found|no domain with matching/i.test(said))
      return undefined;
    throw new HoldfastError(
      'LIBVIRT_FAILED',
      `libvirt does not say whether domain ${uuid} has a backup: ${said}`,
    );
  }
  const root = parseXml(result.stdout);
  const disks = child(root, 'disks');
  const files = (disks === undefined ? [] : children(disks, 'disk')).map((disk) =>
    (child(disk, 'target') ?? child(disk, 'scratch'))?.getAttribute('file'),
  );
  return [child(root, 'server')?.getAttribute('socket'), ...files].filter(
    (path) => path !== undefined && path !== null,
  );
}
