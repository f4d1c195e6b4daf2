import { MiB, type DiskSpec, type GuestSpec } from '../../lab/spec.ts';

/** An ext4 with few files, which the guest mounts as /data. */
export const filesDisk: DiskSpec = {
  target: 'vda',
  sizeBytes: 48 * MiB,
  content: { kind: 'files', fileBytes: 8 * MiB },
};

/** Incompressible data without file system, which nobody writes to. */
export const restingDisk = (sizeMiB: number): DiskSpec => ({
  target: 'vdb',
  format: 'raw',
  sizeBytes: sizeMiB * MiB,
  content: { kind: 'random' },
});

/** A guest that writes, with a second disk that takes a while at a low limit. */
export const busyGuest: GuestSpec = {
  disks: [filesDisk, restingDisk(48)],
  writerMiBPerSecond: 1,
};

/** Slow enough (a quarter of a minute) to do something in the middle of a backup of `busyGuest`. */
export const slowly = { 'nas.backup.bandwidth.limit.mbps': '4' };
