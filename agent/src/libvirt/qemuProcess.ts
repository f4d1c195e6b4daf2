import { readFile } from 'node:fs/promises';
import { processesWithArgument } from '../process/identity.ts';
import { inodeOf } from '../process/inode.ts';
import { domainDirectoryIn } from './nativeArguments.ts';

/** The process of a running domain; undefined when it is not to be seen from here. */
export async function qemuProcess(uuid: string): Promise<number | undefined> {
  for (const pid of await processesWithArgument(uuid)) {
    const name = await readFile(`/proc/${pid}/comm`, 'utf8').catch(() => '');
    if (/^(qemu|kvm)/.test(name)) return pid;
  }
  return undefined;
}

/**
 * The directory that is a running domain's own: under AppArmor, where its QEMU may make any file. libvirt removes it as
 * the domain stops.
 *
 * @returns undefined when it is not to be seen from here
 */
export async function domainDirectory(uuid: string): Promise<string | undefined> {
  const pid = await qemuProcess(uuid);
  if (pid === undefined) return undefined;
  const directory = domainDirectoryIn(await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => ''));
  if (directory === undefined) return undefined;
  // QEMU may be in another mount namespace.
  const [ours, theirs] = await Promise.all([inodeOf(directory), inodeOf(`/proc/${pid}/root${directory}`)]);
  return ours !== undefined && ours === theirs ? directory : undefined;
}
