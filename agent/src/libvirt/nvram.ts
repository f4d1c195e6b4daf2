import type { Element } from '@xmldom/xmldom';
import { nvramPathOf } from './nativeArguments.ts';
import type { Virsh } from './virsh.ts';
import { child, element, parseXml } from './xml.ts';

/** Where the UEFI variables of a domain are. */
export interface NvramSource {
  /** The file; undefined when they are in a block device or on the network. */
  readonly path: string | undefined;
  /** raw or qcow2. */
  readonly format: string;
}

/** Finds the UEFI variables of a domain (libvirt.org/formatdomain.html#bios-bootloader); undefined without any. */
export async function findNvram(
  virsh: Virsh,
  uuid: string,
  domainXml: string,
): Promise<NvramSource | undefined> {
  const os = child(parseXml(domainXml), 'os');
  const nvram = os === undefined ? undefined : child(os, 'nvram');
  const format = nvram?.getAttribute('format') ?? 'raw';
  if (nvram !== undefined) {
    const source = child(nvram, 'source');
    const path = source === undefined ? nvram.textContent?.trim() : source.getAttribute('file');
    if (path !== undefined && path !== null && path !== '') return { path, format };
    if (source !== undefined) return { path: undefined, format };
  }
  if (os?.getAttribute('firmware') !== 'efi') return undefined;
  const path = await nvramPathOf(virsh, uuid);
  return path === undefined ? undefined : { path, format };
}

/** Points a domain to its own file of UEFI variables. */
export function pointNvramTo(root: Element, path: string): void {
  const os = child(root, 'os');
  if (os === undefined) return;
  const nvram = emptied(os) ?? os.appendChild(element(root, 'nvram'));
  nvram.textContent = path;
}

/** Leaves it to libvirt to make new UEFI variables under the domain's own name. */
export function forgetNvram(root: Element): void {
  const os = child(root, 'os');
  const nvram = os === undefined ? undefined : emptied(os);
  if (nvram !== undefined && !nvram.hasAttribute('template')) nvram.parentNode?.removeChild(nvram);
}

/** Takes away where the variables are; what they are made from, and their format, stays. */
function emptied(os: Element): Element | undefined {
  const nvram = child(os, 'nvram');
  if (nvram === undefined) return undefined;
  nvram.removeAttribute('type');
  nvram.textContent = '';
  return nvram;
}
