import type { CopyDisk, CopyEnd } from '../stages/copy.ts';
import type { StageRun } from '../stages/context.ts';

/**
 * How the data of all disks gets from the domain into the images: `pull` and `push` from a running domain, `direct`
 * from one that is shut off. One is chosen for each backup before the guest is touched, and never changed in the middle.
 */
export interface Transport extends AsyncDisposable {
  readonly name: TransportName;
  /**
   * Takes the snapshot of all disks at one instant. The guest may be frozen meanwhile, so everything that takes time has
   * been done before.
   */
  begin(): Promise<void>;
  /** One pass over the data of all disks. The images are complete afterwards but for what QEMU still has in memory. */
  copy(): StageRun<CopyEnd>;
  /** The snapshot, which is held until `end`; undefined where nothing holds it once the copy is done. */
  readonly snapshot: HeldSnapshot | undefined;
  /** Lets the domain go, once the images are closed. */
  end(): Promise<void>;
}

/** A snapshot that can be read again after the copy. */
export interface HeldSnapshot {
  /**
   * Reads it.
   *
   * @param how is given the nodes of the disks, and what it must look at meanwhile: it throws when the reading is over
   */
  read<Result>(how: (sources: readonly CopyDisk[], watch: () => void) => StageRun<Result>): StageRun<Result>;
}

export type TransportName = 'pull' | 'push' | 'direct';
