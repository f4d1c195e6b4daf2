import { MONITOR_PORT, type LibvirtSecret, type RbdCluster } from '../ceph/rbdImage.ts';
import { child, children, descendant, parseXml } from './xml.ts';
import type { Element } from '@xmldom/xmldom';

/** A disk of a domain as its XML describes it. */
export interface DomainDisk {
  /** The target name, such as vda. */
  readonly target: string;
  /** disk, cdrom, floppy or lun. */
  readonly device: string;
  /** The type of the source: file, block, network, volume, ... */
  readonly sourceType: string;
  /** The path of the source, or its name on the network; empty without a medium. */
  readonly source: string;
  /** The driver's format: raw, qcow2, ... */
  readonly format: string;
  readonly readOnly: boolean;
  readonly transient: boolean;
  readonly shareable: boolean;
  /** How the source volume is encrypted; absent when it is not. */
  readonly encryption:
    { readonly format: string; readonly secretUuid: string; readonly engine: string } | undefined;
  /** Where the image named by `source` is; absent unless the source is RBD. */
  readonly rbd: { readonly cluster: RbdCluster; readonly snapshot: string } | undefined;
}

export interface DomainXml {
  readonly uuid: string;
  readonly name: string;
  readonly disks: readonly DomainDisk[];
  /** The owner of the QEMU process, `uid:gid`, when libvirt's DAC driver says so. */
  readonly qemuOwner: { readonly uid: number; readonly gid: number } | undefined;
}

/** Reads what a backup needs from a domain's XML (libvirt.org/formatdomain.html). */
export function readDomainXml(text: string): DomainXml {
  const root = parseXml(text);
  const devices = child(root, 'devices');
  return {
    uuid: child(root, 'uuid')?.textContent ?? '',
    name: child(root, 'name')?.textContent ?? '',
    disks: devices === undefined ? [] : children(devices, 'disk').map(readDisk),
    qemuOwner: readOwner(root),
  };
}

function readDisk(disk: Element): DomainDisk {
  const source = child(disk, 'source');
  const encryption = descendant(disk, ['source', 'encryption']) ?? child(disk, 'encryption');
  const has = (tagName: string): boolean => child(disk, tagName) !== undefined;
  return {
    target: child(disk, 'target')?.getAttribute('dev') ?? '',
    device: disk.getAttribute('device') ?? 'disk',
    sourceType: disk.getAttribute('type') ?? 'file',
    source: source === undefined ? '' : sourcePath(source),
    format: child(disk, 'driver')?.getAttribute('type') ?? 'raw',
    readOnly: has('readonly'),
    transient: has('transient'),
    shareable: has('shareable'),
    encryption:
      encryption === undefined
        ? undefined
        : {
            format: encryption.getAttribute('format') ?? '',
            secretUuid: child(encryption, 'secret')?.getAttribute('uuid') ?? '',
            engine: encryption.getAttribute('engine') ?? 'qemu',
          },
    rbd:
      source?.getAttribute('protocol') === 'rbd'
        ? {
            cluster: readCluster(disk, source),
            snapshot: child(source, 'snapshot')?.getAttribute('name') ?? '',
          }
        : undefined,
  };
}

function readCluster(disk: Element, source: Element): RbdCluster {
  const auth = child(source, 'auth') ?? child(disk, 'auth');
  return {
    monitors: children(source, 'host').map((host) => {
      const name = host.getAttribute('name') ?? '';
      return `${name.includes(':') ? `[${name}]` : name}:${host.getAttribute('port') ?? MONITOR_PORT}`;
    }),
    user: auth?.getAttribute('username') ?? '',
    secret: auth === undefined ? undefined : readSecret(child(auth, 'secret')),
    confPath: child(source, 'config')?.getAttribute('file') ?? '',
  };
}

function readSecret(secret: Element | undefined): LibvirtSecret | undefined {
  const uuid = secret?.getAttribute('uuid') ?? '';
  const usage = secret?.getAttribute('usage') ?? '';
  return uuid !== '' ? { uuid } : usage !== '' ? { usage } : undefined;
}

function sourcePath(source: Element): string {
  for (const attribute of ['file', 'dev', 'name', 'volume']) {
    const value = source.getAttribute(attribute);
    if (value !== null && value !== '') return value;
  }
  return '';
}

function readOwner(root: Element): DomainXml['qemuOwner'] {
  for (const label of children(root, 'seclabel')) {
    if (label.getAttribute('model') !== 'dac') continue;
    const match = /^\+?(\d+):\+?(\d+)$/.exec(child(label, 'label')?.textContent ?? '');
    if (match !== null) return { uid: Number(match[1]), gid: Number(match[2]) };
  }
  return undefined;
}
