import {
  creationSteps,
  fileOptions,
  nodesTopDown,
  type ImageLayout,
  type TargetNodes,
} from '../qemu/layout.ts';
import type { StorageDaemon } from '../qemu/storageDaemon.ts';

/** What was written may still be in the kernel's memory, gigabytes of it. */
const FLUSH_DEADLINE_MS = 600_000;

export interface Target {
  readonly nodes: TargetNodes;
  readonly layout: ImageLayout;
  readonly virtualSizeBytes: number;
  /** The absolute path of the file, which is there and empty. */
  readonly path: string;
}

/** Makes an empty image in a target's file and leaves it open for writing. */
export async function openTarget(daemon: StorageDaemon, target: Target, signal: AbortSignal): Promise<void> {
  const { nodes } = target;
  await daemon.qmp.execute('blockdev-add', fileOptions(target.path, nodes.file));
  for (const [index, step] of creationSteps(target.layout, nodes, target.virtualSizeBytes).entries()) {
    await daemon.create(`create-${nodes.image}-${index}`, step.create, signal);
    await daemon.qmp.execute('blockdev-add', step.thenOpen);
  }
}

/**
 * Closes an image that was written. Metadata is still in QEMU's memory when a job has concluded, and blockdev-del hides
 * the error of writing it out; reopening read-only does not.
 *
 * @throws QmpError when the last writes failed.
 */
export async function closeTarget(daemon: StorageDaemon, target: Target): Promise<void> {
  const { nodes, layout } = target;
  const options = [
    ...creationSteps(layout, nodes, target.virtualSizeBytes)
      .map((step) => step.thenOpen)
      .reverse(),
    fileOptions(target.path, nodes.file),
  ];
  for (const option of options) {
    await reopenReadOnly(daemon, option);
  }
  for (const node of nodesTopDown(layout, nodes))
    await daemon.qmp.execute('blockdev-del', { 'node-name': node });
}

/** A raw image: the options of the storage that it lies on, such as file or rbd. */
export interface RawTarget {
  readonly nodes: TargetNodes;
  readonly storage: object;
}

/** Opens raw storage of the disk's size, all of it holes, for writing. */
export async function openRawTarget(daemon: StorageDaemon, target: RawTarget): Promise<void> {
  for (const options of rawOptions(target)) await daemon.qmp.execute('blockdev-add', options);
}

/** Closes raw storage that was written, with the error of its last writes. */
export async function closeRawTarget(daemon: StorageDaemon, target: RawTarget): Promise<void> {
  for (const options of rawOptions(target).reverse()) {
    await reopenReadOnly(daemon, options);
  }
  for (const node of [target.nodes.image, target.nodes.file]) {
    await daemon.qmp.execute('blockdev-del', { 'node-name': node });
  }
}

async function reopenReadOnly(daemon: StorageDaemon, options: object): Promise<void> {
  const args = { options: [{ ...options, 'read-only': true }] };
  await daemon.qmp.execute('blockdev-reopen', args, FLUSH_DEADLINE_MS);
}

function rawOptions({ nodes, storage }: RawTarget): object[] {
  return [
    { ...storage, 'node-name': nodes.file, discard: 'unmap' },
    { driver: 'raw', file: nodes.file, 'node-name': nodes.image, discard: 'unmap', 'detect-zeroes': 'unmap' },
  ];
}
