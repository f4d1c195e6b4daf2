import type { Element } from '@xmldom/xmldom';
import { rbdPath, serverOf, type RbdImage } from '../ceph/rbdImage.ts';
import { forgetNvram, pointNvramTo } from './nvram.ts';
import { forgetTpmSource } from './tpm.ts';
import { child, children, element, parseXml, printXml } from './xml.ts';

/** A disk's new image. */
export type NewImage =
  | { readonly kind: 'file'; readonly path: string; readonly format: 'qcow2' | 'raw' }
  | { readonly kind: 'rbd'; readonly image: RbdImage; readonly format: 'raw' };

/** Who a domain is. */
export interface DomainIdentity {
  readonly name: string;
  readonly uuid: string;
}

/**
 * The domain XML with its disks on restored images. With a new identity it gets new MAC addresses too, so that it can be
 * defined beside the domain that it was, and shares no UEFI variables with it.
 *
 * @param images the new images by target name; disks that are not in it stay as they are
 * @param nvramPath the restored file of UEFI variables, if there is one
 */
export function restoredDomainXml(
  original: string,
  images: ReadonlyMap<string, NewImage>,
  identity: DomainIdentity | undefined,
  nvramPath: string | undefined,
): string {
  const root = parseXml(original);
  // The id of a run that is over.
  root.removeAttribute('id');
  const devices = child(root, 'devices');
  for (const disk of devices === undefined ? [] : children(devices, 'disk')) {
    const image = images.get(child(disk, 'target')?.getAttribute('dev') ?? '');
    if (image !== undefined) pointTo(disk, image);
  }
  if (nvramPath !== undefined) pointNvramTo(root, nvramPath);
  else if (identity !== undefined) forgetNvram(root);
  forgetTpmSource(root);
  if (identity !== undefined) rename(root, identity);
  return printXml(root);
}

/** Leaves nothing of the old source: its chain, its encryption and its address are not the new image's. */
function pointTo(disk: Element, image: NewImage): void {
  for (const stale of ['backingStore', 'mirror', 'encryption', 'auth', 'source']) {
    for (const node of children(disk, stale)) disk.removeChild(node);
  }
  disk.setAttribute('type', image.kind === 'file' ? 'file' : 'network');
  const driver = child(disk, 'driver') ?? element(disk, 'driver', { name: 'qemu' });
  if (driver.parentNode === null) disk.insertBefore(driver, disk.firstChild);
  driver.setAttribute('type', image.format);
  const source =
    image.kind === 'file' ? element(disk, 'source', { file: image.path }) : rbdSource(disk, image.image);
  disk.insertBefore(source, driver.nextSibling);
}

function rbdSource(disk: Element, image: RbdImage): Element {
  const { monitors, user, secret, confPath } = image.cluster;
  const source = element(disk, 'source', { protocol: 'rbd', name: rbdPath(image) });
  for (const { host, port } of monitors.map(serverOf))
    source.appendChild(element(disk, 'host', { name: host, port }));
  if (confPath !== '') source.appendChild(element(disk, 'config', { file: confPath }));
  if (secret !== undefined) {
    // libvirt has no name for a user without a secret.
    const auth = element(disk, 'auth', { username: user === '' ? 'admin' : user });
    auth.appendChild(element(disk, 'secret', { type: 'ceph', ...secret }));
    source.appendChild(auth);
  }
  return source;
}

function rename(root: Element, identity: DomainIdentity): void {
  const name = child(root, 'name');
  if (name !== undefined) name.textContent = identity.name;
  const uuid = child(root, 'uuid');
  if (uuid !== undefined) uuid.textContent = identity.uuid;
  const devices = child(root, 'devices');
  for (const nic of devices === undefined ? [] : children(devices, 'interface')) {
    // Without one, libvirt makes a new one.
    for (const mac of children(nic, 'mac')) nic.removeChild(mac);
  }
}
