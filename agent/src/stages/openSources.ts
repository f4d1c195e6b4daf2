import { addLimit, LIMIT_GROUP, type CopyDisk } from './copy.ts';
import type { Prepared, PreparedDisk } from './prepare.ts';
import type { Extent } from '../qemu/extents.ts';
import { nodeBelowImage } from '../qemu/layout.ts';

/** A disk as the daemon opens it for reading: options for blockdev-add, and where its data is. */
export interface Source {
  readonly options: object;
  readonly extents: readonly Extent[];
}

/** Opens the disks in the daemon, all under the one limit. */
export async function openSources(
  prepared: Prepared,
  sourceOf: (disk: PreparedDisk) => Promise<Source>,
): Promise<readonly CopyDisk[]> {
  await addLimit(prepared.daemon);
  const opened: CopyDisk[] = [];
  for (const disk of prepared.disks) {
    const { target } = disk.disk;
    const sourceNode = `source-${target}`;
    const { options, extents } = await sourceOf(disk);
    await prepared.daemon.qmp.execute('blockdev-add', {
      driver: 'throttle',
      'throttle-group': LIMIT_GROUP,
      'node-name': sourceNode,
      'read-only': true,
      file: options,
    });
    opened.push({
      target,
      sourceNode,
      targetNode: disk.nodes.image,
      extents,
      imageNode: nodeBelowImage(prepared.layout, disk.nodes),
      fileNode: disk.nodes.file,
    });
  }
  return opened;
}
