import { access, constants, open, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { HoldfastError } from '@holdfast/common/errors.ts';
import { Secret } from '@holdfast/common/secret.ts';
import type { RestoreBackupStart } from '@holdfast/proto/holdfast/agent/v1/agent.ts';
import { ImageFormat } from '@holdfast/proto/holdfast/v1/backup.ts';
import type { FileLink, Undoing } from '../jobs/undo.ts';
import { mapImage } from '../qemu/extents.ts';
import { KEY_SECRET_ID, readOptions, targetNodes, type ImageLayout } from '../qemu/layout.ts';
import { startStorageDaemon, type StorageDaemon } from '../qemu/storageDaemon.ts';
import type { JobContext } from './context.ts';
import { addLimit, LIMIT_GROUP, type CopyDisk } from './copy.ts';
import type { PublishedBackup, PublishedDisk } from './openBackup.ts';
import { openRawTarget, openTarget } from './openTarget.ts';

/** A disk that is being restored. */
export interface RestoreDisk extends CopyDisk, FileLink {
  readonly virtualSizeBytes: number;
  /** Removes the temporary name. */
  readonly temporaryGone: Undoing;
}

export interface PreparedRestore {
  readonly backup: PublishedBackup;
  readonly format: 'qcow2' | 'raw';
  readonly disks: readonly RestoreDisk[];
  readonly daemon: StorageDaemon;
  readonly daemonStop: Undoing;
  /** Where the domain XML goes; undefined when single disks are restored. */
  readonly xmlPath: string | undefined;
}

/** A restored qcow2 is a plain one. */
export const RESTORED_LAYOUT: ImageLayout = { compression: '', encrypted: false };

/**
 * Makes the empty images under temporary names, beside where they will be.
 *
 * @throws HoldfastError DISK_NOT_FOUND, DIRECTORY_UNUSABLE, TARGET_EXISTS before anything is made.
 */
export async function prepareRestore(
  context: JobContext,
  start: RestoreBackupStart,
  backup: PublishedBackup,
): Promise<PreparedRestore> {
  const wanted = chooseDisks(backup, start.disks);
  await requireDirectory(start.directory);
  const format = start.format === ImageFormat.IMAGE_FORMAT_RAW ? 'raw' : 'qcow2';
  const stem = fileStem(start.domainName === '' ? backup.manifest.domainName : start.domainName);
  const finalOf = (disk: PublishedDisk): string => join(start.directory, `${stem}-${disk.target}.${format}`);
  const xmlPath = start.disks.length === 0 ? join(start.directory, `${stem}.xml`) : undefined;
  for (const path of [...wanted.map(finalOf), ...(xmlPath === undefined ? [] : [xmlPath])])
    await requireFree(path);

  const daemonStop = await context.undo.promise({
    kind: 'stop-storage-daemon',
    directory: context.runtimeDirectory,
  });
  const daemon = await startStorageDaemon(context.runtimeDirectory, context.logger, context.control.signal);
  if (backup.secret !== undefined) await daemon.addSecret(KEY_SECRET_ID, backup.secret);
  await addLimit(daemon);
  const disks: RestoreDisk[] = [];
  for (const disk of wanted) disks.push(await openDisk(context, daemon, disk, format, finalOf(disk)));
  return { backup, format, disks, daemon, daemonStop, xmlPath };
}

function chooseDisks(backup: PublishedBackup, targets: readonly string[]): readonly PublishedDisk[] {
  if (targets.length === 0) return backup.disks;
  return [...new Set(targets)].map((target) => {
    const disk = backup.disks.find((candidate) => candidate.target === target);
    if (disk !== undefined) return disk;
    throw new HoldfastError(
      'DISK_NOT_FOUND',
      `The backup has no disk ${JSON.stringify(target)}; it has ${backup.disks.map((each) => each.target).join(', ')}.`,
    );
  });
}

async function requireDirectory(directory: string): Promise<void> {
  const refuse = (why: string): HoldfastError =>
    new HoldfastError('DIRECTORY_UNUSABLE', `The directory ${JSON.stringify(directory)} ${why}.`);
  const found = await stat(directory).catch(() => undefined);
  if (found === undefined) throw refuse('is not there on this host');
  if (!found.isDirectory()) throw refuse('is not a directory');
  await access(directory, constants.W_OK).catch(() => {
    throw refuse('cannot be written to');
  });
}

/** @throws HoldfastError TARGET_EXISTS */
export async function requireFree(path: string): Promise<void> {
  if ((await stat(path).catch(() => undefined)) === undefined) return;
  throw new HoldfastError('TARGET_EXISTS', `${path} is there already; a restore overwrites nothing.`);
}

/** A file name out of a domain's name, which can be hostile. */
export function fileStem(domainName: string): string {
  const safe = domainName.replaceAll(/[^\p{L}\p{N}._-]/gu, '_').replace(/^[.-]+/, '_');
  return Buffer.from(safe).subarray(0, 120).toString('utf8').replaceAll('\uFFFD', '_');
}

async function openDisk(
  context: JobContext,
  daemon: StorageDaemon,
  disk: PublishedDisk,
  format: 'qcow2' | 'raw',
  final: string,
): Promise<RestoreDisk> {
  const { target, manifest } = disk;
  const encrypted = disk.secret !== undefined;
  const virtualSizeBytes = Number(manifest.virtualSizeBytes);
  const base64Key =
    disk.secret === undefined ? undefined : new Secret(Buffer.from(disk.secret.reveal()).toString('base64'));
  const map = await mapImage(
    readOptions(disk.layout, encrypted, disk.path, 'source-key'),
    base64Key,
    context.runtimeDirectory,
    context.control.signal,
  );
  if (map.virtualSizeBytes !== virtualSizeBytes) {
    throw new HoldfastError(
      'BACKUP_DAMAGED',
      `The image of disk ${target} is not of the size that its manifest says.`,
    );
  }
  const sourceNode = `source-${target}`;
  await daemon.qmp.execute('blockdev-add', {
    driver: 'throttle',
    'throttle-group': LIMIT_GROUP,
    'node-name': sourceNode,
    'read-only': true,
    file: { ...readOptions(disk.layout, encrypted, disk.path, KEY_SECRET_ID), 'read-only': true },
  });
  const temporary = `${final}.${context.header.jobId}.partial`;
  const temporaryGone = await context.undo.promise({ kind: 'remove-local', path: temporary });
  await (await open(temporary, 'wx', 0o600)).close();
  const nodes = targetNodes(target);
  const opened = { nodes, layout: RESTORED_LAYOUT, virtualSizeBytes, path: temporary };
  await (format === 'raw'
    ? openRawTarget(daemon, opened)
    : openTarget(daemon, opened, context.control.signal));
  return {
    target,
    sourceNode,
    targetNode: nodes.image,
    imageNode: nodes.file,
    fileNode: nodes.file,
    extents: map.extents,
    virtualSizeBytes,
    temporary,
    final,
    temporaryGone,
  };
}
