import { randomUUID } from 'node:crypto';
import { rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { execa } from 'execa';
import type { Ceph } from '../../lab/ceph.ts';
import type { Guest } from '../../lab/guest.ts';
import type { Lab } from '../../lab/lab.ts';
import type { GuestDisk } from '../../lab/spec.ts';

const MINUTE = 60_000;

/** A secret that libvirt knows, with the key of a Ceph user; returns its UUID. */
export async function defineCephSecret(lab: Lab, user: string, key: string): Promise<string> {
  const uuid = randomUUID();
  const xml = path.join(lab.directory, `${uuid}.xml`);
  const usage = `<usage type='ceph'><name>${user} ${uuid}</name></usage>`;
  await writeFile(xml, `<secret ephemeral='no' private='no'><uuid>${uuid}</uuid>${usage}</secret>`);
  await lab.virsh(['secret-define', xml]);
  await rm(xml);
  await lab.virsh(['secret-set-value', uuid, key]);
  return uuid;
}

/** Makes an image of a disk that the lab has built. */
export async function importDisk(ceph: Ceph, disk: GuestDisk | undefined, image: string): Promise<void> {
  if (disk?.path === undefined) throw new Error(`There is no disk for ${image}.`);
  const raw = `${disk.path}.raw`;
  await execa('qemu-img', ['convert', '-f', disk.format, '-O', 'raw', disk.path, raw], { timeout: MINUTE });
  await ceph.rbd(['import', '--no-progress', raw, image]);
  await rm(raw);
}

/** The XML of a disk on RBD. `inSource` goes into its <source>. */
export function rbdDiskXml(target: string, image: string, inSource: string): string {
  return `<disk type='network' device='disk'><driver name='qemu' type='raw'/>
    <source protocol='rbd' name='${image}'>${inSource}</source>
    <target dev='${target}' bus='virtio'/></disk>`;
}

/** The monitor of a cluster and the user that libvirt's secret is of. */
export function cephxXml(ceph: Ceph, user: string, secretUuid: string): string {
  return `<host name='${ceph.monitor.host}' port='${ceph.monitor.port}'/>
    <auth username='${user}'><secret type='ceph' uuid='${secretUuid}'/></auth>`;
}

/** Gives a domain other disks. */
export async function replaceDisks(lab: Lab, guest: Guest, disks: readonly string[]): Promise<void> {
  const xml = (await guest.xml(['--inactive'])).replaceAll(/<disk .*?<\/disk>/gs, '');
  await lab.define(xml.replace('</devices>', `${disks.join('')}</devices>`));
}

/** Throws unless an image of the cluster, or a snapshot, holds what a file holds. */
export async function requireSameAsImage(
  ceph: Ceph,
  image: string,
  file: { readonly path: string; readonly format: string },
): Promise<void> {
  const rbd = `rbd:${image}:conf=${ceph.confPath}`;
  const args = ['compare', '-U', '-f', 'raw', '-F', file.format, rbd, file.path];
  const { exitCode, stdout, stderr } = await execa('qemu-img', args, { timeout: MINUTE, reject: false });
  if (exitCode !== 0) throw new Error(`${file.path} differs from ${image}: ${stdout}${stderr}`);
}

/** The bytes of an image's objects, as `rbd du` counts them. */
export async function usedBytes(ceph: Ceph, image: string): Promise<number> {
  const { images } = JSON.parse(await ceph.rbd(['du', '--format=json', image])) as {
    images: { used_size: number }[];
  };
  return images.at(-1)?.used_size ?? 0;
}

/** The names of all images of a pool. */
export async function imagesOf(ceph: Ceph, pool: string): Promise<string[]> {
  return (JSON.parse(await ceph.rbd(['ls', '--format=json', pool])) as string[]).toSorted();
}

/** The snapshots of an image. */
export async function snapshotsOf(ceph: Ceph, image: string): Promise<string[]> {
  const snapshots = JSON.parse(await ceph.rbd(['snap', 'ls', '--format=json', image])) as { name: string }[];
  return snapshots.map(({ name }) => name);
}
