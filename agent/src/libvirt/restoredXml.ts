import { randomUUID } from 'node:crypto';
import type { Element } from '@xmldom/xmldom';
import { child, children, element, parseXml, printXml } from './xml.ts';

/** A disk's new image. */
export interface NewImage {
  readonly path: string;
  readonly format: 'qcow2' | 'raw';
}

/**
 * The domain XML with its disks on restored images. With a new name it gets a new UUID and new MAC addresses too, so
 * that it can be defined beside the domain that it was.
 *
 * @param images the new images by target name; disks that are not in it stay as they are
 */
export function restoredDomainXml(
  original: string,
  images: ReadonlyMap<string, NewImage>,
  newName: string | undefined,
): string {
  const root = parseXml(original);
  // The id of a run that is over.
  root.removeAttribute('id');
  const devices = child(root, 'devices');
  for (const disk of devices === undefined ? [] : children(devices, 'disk')) {
    const image = images.get(child(disk, 'target')?.getAttribute('dev') ?? '');
    if (image !== undefined) pointTo(disk, image);
  }
  if (newName !== undefined) rename(root, newName);
  return printXml(root);
}

/** Leaves nothing of the old source: its chain, its encryption and its address are not the new image's. */
function pointTo(disk: Element, image: NewImage): void {
  for (const stale of ['backingStore', 'mirror', 'encryption', 'auth', 'source']) {
    for (const node of children(disk, stale)) disk.removeChild(node);
  }
  disk.setAttribute('type', 'file');
  const driver = child(disk, 'driver') ?? element(disk, 'driver', { name: 'qemu' });
  if (driver.parentNode === null) disk.insertBefore(driver, disk.firstChild);
  driver.setAttribute('type', image.format);
  disk.insertBefore(element(disk, 'source', { file: image.path }), driver.nextSibling);
}

function rename(root: Element, newName: string): void {
  const name = child(root, 'name');
  if (name !== undefined) name.textContent = newName;
  const uuid = child(root, 'uuid');
  if (uuid !== undefined) uuid.textContent = randomUUID();
  const devices = child(root, 'devices');
  for (const nic of devices === undefined ? [] : children(devices, 'interface')) {
    // Without one, libvirt makes a new one.
    for (const mac of children(nic, 'mac')) nic.removeChild(mac);
  }
}
