import type { PreparedDisk } from '../stages/prepare.ts';
import type { ImageLayout } from '../qemu/layout.ts';
import type { StorageDaemon } from '../qemu/storageDaemon.ts';

/** qcow2's default, which all images here have. */
const CLUSTER_BYTES = 65_536;

/**
 * Offers the images for writing over NBD, each under its disk's target name and as large as the disk to the byte. What
 * is written is compressed when the layout says so: plain writes come out of a FUSE file, so a filter turns them into
 * compressed ones (qemu.git block/filter-compress.c).
 */
export async function offerTargets(
  writer: StorageDaemon,
  layout: ImageLayout,
  disks: readonly PreparedDisk[],
  socket: string,
): Promise<void> {
  const addr = { type: 'unix', data: { path: socket } };
  await writer.qmp.execute('nbd-server-start', { addr, 'max-connections': 0 });
  for (const disk of disks) {
    for (const options of filters(layout, disk)) await writer.qmp.execute('blockdev-add', options);
    const { target } = disk.disk;
    await writer.qmp.execute('block-export-add', {
      type: 'nbd',
      id: `target-${target}`,
      'node-name': topNode(layout, disk),
      name: target,
      writable: true,
    });
  }
}

/** Makes room for whole clusters in an image whose disk ends within one: the filter takes no part of a cluster. */
export async function roundUp(
  writer: StorageDaemon,
  layout: ImageLayout,
  disks: readonly PreparedDisk[],
): Promise<void> {
  for (const disk of disks.filter((each) => isOdd(layout, each))) {
    const size = Math.ceil(disk.virtualSizeBytes / CLUSTER_BYTES) * CLUSTER_BYTES;
    await writer.qmp.execute('block_resize', { 'node-name': disk.nodes.image, size });
  }
}

/** Takes the offers back and gives the images their sizes again, so that they can be closed. */
export async function withdrawTargets(
  writer: StorageDaemon,
  layout: ImageLayout,
  disks: readonly PreparedDisk[],
): Promise<void> {
  // Removes the exports and waits for their clients to be gone.
  await writer.qmp.execute('nbd-server-stop');
  for (const disk of disks) {
    for (const { 'node-name': node } of filters(layout, disk).reverse())
      await writer.qmp.execute('blockdev-del', { 'node-name': node });
    if (!isOdd(layout, disk)) continue;
    const size = disk.virtualSizeBytes;
    await writer.qmp.execute('block_resize', { 'node-name': disk.nodes.image, size });
  }
}

function filters(layout: ImageLayout, disk: PreparedDisk): { readonly 'node-name': string }[] {
  if (layout.compression === '') return [];
  const { target } = disk.disk;
  const compress = { driver: 'compress', file: disk.nodes.image, 'node-name': `compress-${target}` };
  if (!isOdd(layout, disk)) return [compress];
  const size = disk.virtualSizeBytes;
  return [
    compress,
    { ...{ driver: 'raw', file: `compress-${target}`, size }, 'node-name': `sized-${target}` },
  ];
}

function topNode(layout: ImageLayout, disk: PreparedDisk): string {
  return filters(layout, disk).at(-1)?.['node-name'] ?? disk.nodes.image;
}

function isOdd(layout: ImageLayout, disk: PreparedDisk): boolean {
  return layout.compression !== '' && disk.virtualSizeBytes % CLUSTER_BYTES !== 0;
}
