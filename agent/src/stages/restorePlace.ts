import { truncate } from 'node:fs/promises';
import { dirname } from 'node:path';
import { rbdOptions, rbdPath, type RbdImage } from '../ceph/rbdImage.ts';
import type { NewImage } from '../libvirt/restoredXml.ts';
import { fileOptions, targetNodes, type ImageLayout } from '../qemu/layout.ts';
import type { StorageDaemon } from '../qemu/storageDaemon.ts';
import {
  closeRawTarget,
  closeTarget,
  openRawTarget,
  openTarget,
  type RawTarget,
  type Target,
} from './openTarget.ts';

/** Where a restored disk is written: under a temporary name, which becomes the final one when all disks are whole. */
export type RestorePlace =
  | {
      readonly kind: 'file';
      readonly format: 'qcow2' | 'raw';
      readonly temporary: string;
      readonly final: string;
    }
  /** `temporary` is there already, and QEMU knows the key under `keySecretId`. */
  | {
      readonly kind: 'rbd';
      readonly temporary: RbdImage;
      readonly final: RbdImage;
      readonly keySecretId: string | undefined;
    };

/** A restored qcow2 is a plain one. */
const RESTORED_LAYOUT: ImageLayout = { compression: '', encrypted: false };

interface Disk {
  readonly target: string;
  readonly virtualSizeBytes: number;
  readonly place: RestorePlace;
}

/** Opens the empty image for writing. */
export async function openPlace(daemon: StorageDaemon, disk: Disk, signal: AbortSignal): Promise<void> {
  const { place } = disk;
  if (place.kind === 'file' && place.format === 'qcow2')
    return openTarget(daemon, qcow2(disk, place.temporary), signal);
  if (place.kind === 'file') await truncate(place.temporary, disk.virtualSizeBytes);
  return openRawTarget(daemon, raw(disk));
}

/** Completes the image. @throws QmpError when the last writes failed. */
export async function closePlace(daemon: StorageDaemon, disk: Disk): Promise<void> {
  const { place } = disk;
  if (place.kind === 'file' && place.format === 'qcow2')
    return closeTarget(daemon, qcow2(disk, place.temporary));
  return closeRawTarget(daemon, raw(disk));
}

/** The image as the domain XML names it. */
export function newImage(place: RestorePlace): NewImage {
  return place.kind === 'file'
    ? { kind: 'file', path: place.final, format: place.format }
    : { kind: 'rbd', image: place.final, format: 'raw' };
}

/** For people: the path, or rbd:POOL/IMAGE. */
export function placePath(place: RestorePlace): string {
  return place.kind === 'file' ? place.final : `rbd:${rbdPath(place.final)}`;
}

/** What the disks share: the directory, or the pool. */
export function placeParent(place: RestorePlace): string {
  return place.kind === 'file' ? dirname(place.final) : `RBD pool ${place.final.pool}`;
}

function qcow2({ target, virtualSizeBytes }: Disk, path: string): Target {
  return { nodes: targetNodes(target), layout: RESTORED_LAYOUT, virtualSizeBytes, path };
}

function raw({ target, place }: Disk): RawTarget {
  return {
    nodes: targetNodes(target),
    storage:
      place.kind === 'file' ? fileOptions(place.temporary) : rbdOptions(place.temporary, place.keySecretId),
  };
}
