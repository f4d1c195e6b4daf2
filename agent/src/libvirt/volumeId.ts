import { readdir, readlink, realpath } from 'node:fs/promises';
import { join } from 'node:path';
import type { DomainDisk } from './domainXml.ts';

/** Where udev's rules of DRBD name devices by their resources. */
const BY_RESOURCE = '/dev/drbd/by-res';
const RESOURCE_PATH = /^\/dev\/drbd\/by-res\/([^/]+)\/\d+$/;
const DRBD_DEVICE = /^\/dev\/drbd\d+$/;

/**
 * The name that a volume has in its own storage, which stays when the volume is attached elsewhere: the image of an RBD
 * source, the resource of a DRBD device (which is what LINSTOR calls it), and empty for what its path alone names.
 *
 * @param byResource for tests
 */
export async function volumeIdOf(
  disk: Pick<DomainDisk, 'source' | 'rbd'>,
  byResource = BY_RESOURCE,
): Promise<string> {
  if (disk.rbd !== undefined) return disk.source;
  const resource = RESOURCE_PATH.exec(disk.source)?.[1];
  if (resource !== undefined) return resource;
  return DRBD_DEVICE.test(disk.source) ? resourceOf(disk.source, byResource) : '';
}

/** The number of a device changes from host to host; its links do not. */
async function resourceOf(device: string, byResource: string): Promise<string> {
  const resources = await readdir(byResource).catch(() => []);
  for (const resource of resources) {
    const directory = join(byResource, resource);
    for (const volume of await readdir(directory).catch(() => [])) {
      const link = join(directory, volume);
      const target = await realpath(link).catch(() => readlink(link).catch(() => ''));
      if (target === device) return resource;
    }
  }
  return '';
}
