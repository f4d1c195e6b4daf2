import { createHash } from 'node:crypto';
import { cp, readdir, rm } from 'node:fs/promises';
import path from 'node:path';
import { additionsFor } from './apt.ts';
import { unpackedPackages } from './guest/unpacked.ts';

/**
 * Debian packages whose programs the lab runs without installing them: on a machine of one's own an installation would
 * start a file server for the whole network, enforce profiles, or change what the machine mounts.
 */
const PACKAGES: readonly string[] = [
  'nfs-ganesha', // an NFS server in user space
  'nfs-ganesha-vfs', // what lets it export a directory
  'samba', // a CIFS server
  'nfs-common', // mount.nfs, in the micro-VM
  'cifs-utils', // mount.cifs, in the micro-VM
  'apparmor', // apparmor_parser and the abstractions of profiles, in the micro-VM
  'socat', // passes connections on to the agent in the micro-VM
  'qemu-guest-agent', // how tests run programs in the micro-VM
];

/**
 * The directory, in the cache, with `usr` and `etc` of these packages and of all that they need beyond what this
 * machine has. It is made to lie over a root file system, as the upper of two layers.
 */
export async function labPrograms(): Promise<string> {
  const digest = createHash('sha256').update(PACKAGES.join(' ')).digest('hex').slice(0, 16);
  return unpackedPackages(`programs-${digest}`, () => additionsFor(PACKAGES), mergeUsr);
}

/** Debian 12 has its /bin, /sbin and /lib in /usr, but its packages still name the former. */
async function mergeUsr(directory: string): Promise<void> {
  for (const folder of (await readdir(directory)).filter((name) => /^(s?bin|lib.*)$/.test(name))) {
    const from = path.join(directory, folder);
    await cp(from, path.join(directory, 'usr', folder), { recursive: true, verbatimSymlinks: true });
    await rm(from, { recursive: true });
  }
}
