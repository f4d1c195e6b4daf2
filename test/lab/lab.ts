import { randomUUID } from 'node:crypto';
import { rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { guestImage } from '../setup/guest/image.ts';
import { domainXml } from './domain.ts';
import { guestOf, type Guest } from './guest.ts';
import { startHost, type Host } from './host.ts';
import { buildImage } from './image.ts';
import type { DiskSpec, GuestDisk, GuestSpec } from './spec.ts';
import { sweepLabs } from './sweep.ts';
import { virshFor, type Virsh } from './virsh.ts';

export interface LabOptions {
  /** Default root. `libvirt-qemu` for tests about permissions. */
  readonly qemuUser?: string;
  /** See HostOptions. */
  readonly mounts?: 'shared' | 'private';
}

/** One KVM host of its own: a private libvirtd, its guests and their disks. Disposal removes all of it. */
export interface Lab extends Host {
  readonly virsh: Virsh;
  /** Builds the disks, defines the domain and starts it (see `GuestSpec.start`). */
  guest(spec: GuestSpec): Promise<Guest>;
  /** Defines a domain from XML, such as a restored one; does not start it. */
  define(xml: string): Promise<Guest>;
  /** Makes a disk image in the lab without a domain. */
  disk(spec: DiskSpec): Promise<GuestDisk>;
}

/** Starts a lab. Several can run at the same time. Also removes labs whose owner is gone. */
export async function startLab(options: LabOptions = {}): Promise<Lab> {
  await sweepLabs();
  const image = await guestImage();
  const host = await startHost({
    qemuUser: options.qemuUser ?? 'root',
    mounts: options.mounts,
  });
  const virsh = virshFor(host.libvirtUri);
  let count = 0;

  const disk = async (spec: DiskSpec, prefix = randomUUID().slice(0, 8)): Promise<GuestDisk> => {
    const device = spec.device ?? 'disk';
    const format = spec.format ?? (device === 'disk' ? 'qcow2' : 'raw');
    const { target, source } = spec;
    if (source !== undefined) return { target, path: source, format, sizeBytes: spec.sizeBytes ?? 0 };
    if (device !== 'disk' && spec.content === undefined)
      return { target, path: undefined, format, sizeBytes: 0 };
    const file = path.join(host.directory, 'disks', spec.fileName ?? `${prefix}-${target}.${format}`);
    const sizeBytes = await buildImage(file, {
      format,
      content: spec.content ?? { kind: 'empty' },
      sizeBytes: spec.sizeBytes,
    });
    return { target, path: file, format, sizeBytes };
  };

  const defineXml = async (xml: string): Promise<void> => {
    const file = path.join(host.directory, `${randomUUID()}.xml`);
    await writeFile(file, xml, { mode: 0o600 });
    try {
      await virsh(['define', file]);
    } finally {
      await rm(file);
    }
  };

  return {
    ...host,
    virsh,
    disk: (spec) => disk(spec),
    guest: async (spec) => {
      const uuid = spec.uuid ?? randomUUID();
      const name = spec.name ?? `guest-${++count}`;
      const disks: GuestDisk[] = [];
      for (const each of spec.disks) disks.push(await disk(each, uuid.slice(0, 8)));
      const consoleLog = path.join(host.directory, 'console', `${uuid}.log`);
      await defineXml(domainXml({ spec, name, uuid, image, consoleLog, disks }));
      const guest = guestOf(virsh, { name, uuid, disks, consoleLog, hasAgent: spec.agent ?? true });
      if (spec.start ?? true) await guest.start();
      return guest;
    },
    define: async (xml) => {
      await defineXml(xml);
      return definedGuest(virsh, xml);
    },
  };
}

async function definedGuest(virsh: Virsh, xml: string): Promise<Guest> {
  const uuid = /<uuid>\s*([-0-9a-f]{36})\s*<\/uuid>/i.exec(xml)?.[1];
  if (uuid === undefined)
    throw new Error('Domain XML without <uuid>: the lab knows its guests by it, add one.');
  const consoleLog = /<serial type=.file.*?<source path=.([^'"]+)/s.exec(xml)?.[1];
  return guestOf(virsh, {
    name: (await virsh(['domname', uuid])).trim(),
    uuid,
    disks: [],
    consoleLog,
    hasAgent: xml.includes('org.qemu.guest_agent.0'),
  });
}
