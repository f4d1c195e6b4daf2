import type { Element } from '@xmldom/xmldom';
import type { BlockDevice, NetworkInterface } from '@holdfast/proto/holdfast/v1/manifest.ts';
import { readDomainXml } from './domainXml.ts';
import { child, children, parseXml } from './xml.ts';

/** Where each type of interface names what it is connected to, as virsh domiflist does. */
const SOURCE_ATTRIBUTES: readonly string[] = ['network', 'bridge', 'dev', 'path', 'name', 'address'];

/** The network interfaces of a domain. */
export function readInterfaces(domainXml: string): readonly NetworkInterface[] {
  const devices = child(parseXml(domainXml), 'devices');
  return devices === undefined ? [] : children(devices, 'interface').map(readInterface);
}

function readInterface(nic: Element): NetworkInterface {
  const source = child(nic, 'source');
  const attribute = (tagName: string, name: string): string => child(nic, tagName)?.getAttribute(name) ?? '';
  return {
    target: attribute('target', 'dev'),
    type: nic.getAttribute('type') ?? '',
    source:
      SOURCE_ATTRIBUTES.map((name) => source?.getAttribute(name) ?? '').find((value) => value !== '') ?? '',
    model: attribute('model', 'type'),
    mac: attribute('mac', 'address'),
  };
}

/** All block devices of a domain. */
export function readBlockDevices(domainXml: string): readonly BlockDevice[] {
  return readDomainXml(domainXml).disks.map(({ target, sourceType, device, source }) => ({
    target,
    type: sourceType,
    device,
    source,
  }));
}
