/** A guest to be defined and, unless `start` is false, started. Everything has a default except the disks. */
export interface GuestSpec {
  /** May hold anything libvirt takes: spaces, quotes, commas, non-ASCII. Default: `guest-N`. */
  readonly name?: string;
  readonly uuid?: string;
  /** Default 256. */
  readonly memoryMiB?: number;
  /** Default bios. uefi boots several times slower; the guest's variables are where libvirt puts them. */
  readonly firmware?: 'bios' | 'uefi';
  /** In this order the guest sees them; it mounts an ext4 on the first as /data, on the others as /disk/vdb… */
  readonly disks: readonly DiskSpec[];
  /** Added inside `<devices>` as it is. */
  readonly extraDevicesXml?: string;
  /** MiB/s that a writer in the guest writes to /data/busy from boot on. Default 0: none. */
  readonly writerMiBPerSecond?: number;
  /** Default true: a guest agent and its channel. */
  readonly agent?: boolean;
  /** Default true. A started guest is still booting: see `Guest.waitReady`. */
  readonly start?: boolean;
}

export interface DiskSpec {
  /** `vda` is virtio, `sda` SCSI, `hda` IDE (fit for a cdrom), `fda` the floppy. */
  readonly target: string;
  /** Default `disk`. */
  readonly device?: 'disk' | 'cdrom' | 'floppy';
  /** Default qcow2 for disks, raw for cdroms and floppies. */
  readonly format?: 'qcow2' | 'raw';
  /** Default: 64 MiB, or what fits the content. */
  readonly sizeBytes?: number;
  /** Left out: no medium for a cdrom or floppy, `empty` for a disk. */
  readonly content?: DiskContent;
  /** Name of the image file in the lab's `disks` directory; may hold commas, quotes and the like. */
  readonly fileName?: string;
  /** An image that is there already, used instead of a new one: `format` says what it is. */
  readonly source?: string;
  readonly readOnly?: boolean;
  readonly transient?: boolean;
  /** libvirt wants raw for it. */
  readonly shareable?: boolean;
}

/** What is on a new disk. The same content and size gives the same bytes, except in `files` (time stamps, UUID). */
export type DiskContent =
  /** Nothing but a hole. */
  | { readonly kind: 'empty' }
  /** Incompressible bytes, in every 1 MiB block or in one of `everyMiB`; a `marker` starts each written 64 KiB. */
  | {
      readonly kind: 'random';
      readonly seed?: string;
      readonly everyMiB?: number;
      readonly marker?: string;
    }
  /** Compressible text that says at each 64 KiB where it is; `marker` starts each 64 KiB. */
  | { readonly kind: 'pattern'; readonly marker?: string }
  /**
   * An ext4 with at least `fileBytes` (default 64 MiB) of this machine's own files, /busy, /before.txt with
   * `beforeText`, and with a `marker` /marker.bin, 8 MiB with it at each 64 KiB.
   */
  | { readonly kind: 'files'; readonly fileBytes?: number; readonly marker?: string };

/** What /before.txt holds on a disk of kind `files`. */
export const beforeText = 'Written before the backup began.\n';

/** A disk of a guest as it was built. `path` is undefined without a medium. */
export interface GuestDisk {
  readonly target: string;
  readonly path: string | undefined;
  readonly format: 'qcow2' | 'raw';
  readonly sizeBytes: number;
}

export const KiB = 1024;
export const MiB = 1024 * KiB;
export const GiB = 1024 * MiB;
