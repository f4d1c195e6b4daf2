import type { JobContext } from './context.ts';
import { addLimit, LIMIT_GROUP, type CopyDisk } from './copy.ts';
import type { Prepared, PreparedDisk } from './prepare.ts';
import type { Snapshot } from './quiesce.ts';
import { mapNbdExport, type Extent } from '../qemu/extents.ts';
import { nodeBelowImage } from '../qemu/layout.ts';

/** Opens the disks of the snapshot in the daemon, all under the one limit. */
export async function openSources(
  context: JobContext,
  prepared: Prepared,
  snapshot: Snapshot,
): Promise<readonly CopyDisk[]> {
  await addLimit(prepared.daemon);
  const opened: CopyDisk[] = [];
  for (const disk of prepared.disks) {
    const { target } = disk.disk;
    const sourceNode = `source-${target}`;
    const { options, extents } = await sourceOf(context, prepared, snapshot, disk);
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

async function sourceOf(
  context: JobContext,
  prepared: Prepared,
  snapshot: Snapshot,
  disk: PreparedDisk,
): Promise<{ readonly options: object; readonly extents: readonly Extent[] }> {
  const { target } = disk.disk;
  if (snapshot.kind === 'running') {
    const server = { type: 'unix', path: snapshot.socket };
    const { extents } = await mapNbdExport(snapshot.socket, target, context.control.signal);
    return { options: { driver: 'nbd', server, export: target, 'read-only': true }, extents };
  }
  if (disk.stopped === undefined) throw new Error(`disk ${target} has no source`);
  const secretId = `source-key-${target}`;
  const { secret } = disk.stopped;
  if (secret !== undefined) await prepared.daemon.addSecret(secretId, secret, 'base64');
  return { options: disk.stopped.options(secretId), extents: disk.stopped.extents };
}
