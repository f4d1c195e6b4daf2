import { rbdWith } from '../ceph/rbd.ts';
import { parseRbdPath } from '../ceph/rbdImage.ts';
import { watchImages, type ImageWatch } from '../ceph/watchImages.ts';
import type { JobContext } from '../stages/context.ts';
import type { Prepared } from '../stages/prepare.ts';

/** Watches the RBD images among the sources, whoever reads them. */
export function watchSourceImages(context: JobContext, prepared: Prepared): ImageWatch {
  const images = prepared.disks.flatMap(({ disk }) => {
    const image = disk.rbd === undefined ? undefined : parseRbdPath(disk.rbd.cluster, disk.source);
    return image === undefined ? [] : [image];
  });
  return watchImages(rbdWith(context.virsh, context.runtimeDirectory), images);
}
