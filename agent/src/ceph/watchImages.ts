import { HoldfastError } from '@holdfast/common/errors.ts';
import type { Rbd } from './rbd.ts';
import type { RbdImage } from './rbdImage.ts';

/** Looks after images that are being copied from or to. */
export interface ImageWatch {
  /**
   * To be called again and again with how long a copy has stood still. Returns at once.
   *
   * @throws HoldfastError once it is known that it stands still because of the cluster.
   */
  whenIdle(idleMs: number): void;
  /** What is wrong with the images' storage; undefined when it answers. */
  fault(): Promise<HoldfastError | undefined>;
}

/**
 * librbd waits for ever when its cluster is away or its key was taken, and QEMU with it: a copy stands still and never
 * fails. A new connection says which of the two it is.
 */
const IDLE_MS = 10_000;

export function watchImages(rbd: Pick<Rbd, 'info'>, images: readonly RbdImage[]): ImageWatch {
  let askedAtMs = 0;
  let isAsking = false;
  let found: Error | undefined;
  const fault = async (): Promise<HoldfastError | undefined> => {
    for (const image of images) {
      try {
        await rbd.info(image);
      } catch (error) {
        if (!(error instanceof HoldfastError)) throw error;
        // Nobody can be asked on a host without Ceph's tools, where QEMU can work all the same.
        return error.reason === 'DISK_UNSUPPORTED' ? undefined : error;
      }
    }
    return undefined;
  };
  return {
    fault,
    whenIdle: (idleMs) => {
      if (idleMs < IDLE_MS) {
        askedAtMs = 0;
        found = undefined;
        return;
      }
      if (found !== undefined) throw found;
      if (isAsking || idleMs - askedAtMs < IDLE_MS) return;
      askedAtMs = idleMs;
      isAsking = true;
      fault().then(
        (error) => {
          isAsking = false;
          found = error;
        },
        (error: unknown) => {
          found = error as Error;
        },
      );
    },
  };
}
