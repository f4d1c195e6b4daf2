import { access, constants, open, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { HoldfastError } from '@holdfast/common/errors.ts';
import type { RestoreBackupStart } from '@holdfast/proto/holdfast/agent/v1/agent.ts';
import { ImageFormat } from '@holdfast/proto/holdfast/v1/backup.ts';
import { rbdWith } from '../ceph/rbd.ts';
import type { Undoing } from '../jobs/undo.ts';
import type { WatchedRepository } from '../repository/liveness.ts';
import { KEY_SECRET_ID, targetNodes } from '../qemu/layout.ts';
import { startStorageDaemon, type StorageDaemon } from '../qemu/storageDaemon.ts';
import type { JobContext } from './context.ts';
import { addLimit, type CopyDisk } from './copy.ts';
import { openImage } from './openImage.ts';
import type { PublishedBackup, PublishedDisk } from './openBackup.ts';
import { CLUSTER_KEY_ID, openPool } from './restorePool.ts';
import { openPlace, type RestorePlace } from './restorePlace.ts';

/** A disk that is being restored. */
export interface RestoreDisk extends CopyDisk {
  readonly virtualSizeBytes: number;
  readonly place: RestorePlace;
  /** Removes the temporary name. */
  readonly temporaryGone: Undoing;
}

export interface PreparedRestore {
  readonly backup: PublishedBackup;
  readonly disks: readonly RestoreDisk[];
  readonly daemon: StorageDaemon;
  readonly daemonStop: Undoing;
  /** Where the domain XML goes; undefined when single disks are restored. */
  readonly xmlPath: string | undefined;
}

/** A disk with the place that it will have. */
interface PlacedDisk {
  readonly disk: PublishedDisk;
  readonly place: RestorePlace;
}

interface MadeDisk extends PlacedDisk {
  readonly temporaryGone: Undoing;
}

/**
 * Makes the empty images under temporary names, beside where they will be.
 *
 * @throws HoldfastError DISK_NOT_FOUND, DIRECTORY_UNUSABLE, TARGET_EXISTS, VOLUME_NOT_FOUND, VOLUME_REFUSED,
 *   VOLUME_STALLED before anything is made.
 */
export async function prepareRestore(
  context: JobContext,
  start: RestoreBackupStart,
  backup: PublishedBackup,
  repository: WatchedRepository,
): Promise<PreparedRestore> {
  const wanted = chooseDisks(backup, start.disks);
  const stem = fileStem(start.domainName === '' ? backup.manifest.domainName : start.domainName);
  const xmlPath = start.disks.length === 0 ? join(start.directory, `${stem}.xml`) : undefined;
  if (start.rbd === undefined || xmlPath !== undefined) await requireDirectory(start.directory);
  if (xmlPath !== undefined) await requireFree(xmlPath);
  const rbd = start.rbd === undefined ? undefined : await openPool(context, start.rbd, backup);
  const placed: PlacedDisk[] = [];
  for (const disk of wanted) {
    const name = `${stem}-${disk.target}`;
    const place = rbd === undefined ? filePlace(context, start, name) : await rbd.place(name);
    placed.push({ disk, place });
  }
  for (const { place } of placed) if (place.kind === 'file') await requireFree(place.final);

  // Before the daemon, so that it is undone after it: an image that is open cannot be removed.
  const made: MadeDisk[] = [];
  for (const each of placed) made.push({ ...each, temporaryGone: await makeEmpty(context, each) });
  const daemonStop = await context.undo.promise({
    kind: 'stop-storage-daemon',
    directory: context.runtimeDirectory,
  });
  const daemon = await startStorageDaemon(context.runtimeDirectory, context.logger, context.control.signal, {
    isExcused: () => repository.stalledSince !== undefined,
  });
  if (backup.secret !== undefined) await daemon.addSecret(KEY_SECRET_ID, backup.secret);
  if (rbd?.key !== undefined) await daemon.addSecret(CLUSTER_KEY_ID, rbd.key, 'base64');
  await addLimit(daemon);
  const disks: RestoreDisk[] = [];
  for (const each of made)
    disks.push(await repository.whileAnswering(openDisk(context, daemon, each, repository.givenUp)));
  return { backup, disks, daemon, daemonStop, xmlPath };
}

function filePlace(context: JobContext, start: RestoreBackupStart, name: string): RestorePlace {
  const format = start.format === ImageFormat.IMAGE_FORMAT_RAW ? 'raw' : 'qcow2';
  const final = join(start.directory, `${name}.${format}`);
  return { kind: 'file', format, temporary: `${final}.${context.header.jobId}.partial`, final };
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
  { disk, place, temporaryGone }: MadeDisk,
  givenUp: AbortSignal,
): Promise<RestoreDisk> {
  const { target, manifest } = disk;
  const virtualSizeBytes = Number(manifest.virtualSizeBytes);
  const signal = AbortSignal.any([context.control.signal, givenUp]);
  const sourceNode = `source-${target}`;
  const map = await openImage(context, daemon, disk, [sourceNode], signal);
  if (map.virtualSizeBytes !== virtualSizeBytes) {
    throw new HoldfastError(
      'BACKUP_DAMAGED',
      `The image of disk ${target} is not of the size that its manifest says.`,
    );
  }
  await openPlace(daemon, { target, virtualSizeBytes, place }, context.control.signal);
  const nodes = targetNodes(target);
  return {
    target,
    sourceNode,
    targetNode: nodes.image,
    imageNode: nodes.file,
    fileNode: nodes.file,
    extents: map.extents,
    virtualSizeBytes,
    place,
    temporaryGone,
  };
}

async function makeEmpty(context: JobContext, { disk, place }: PlacedDisk): Promise<Undoing> {
  if (place.kind === 'rbd') {
    const { runtimeDirectory: directory } = context;
    const gone = await context.undo.promise({
      kind: 'remove-rbd-image',
      image: place.temporary,
      id: undefined,
      directory,
    });
    await rbdWith(context.virsh, directory).create(place.temporary, Number(disk.manifest.virtualSizeBytes));
    return gone;
  }
  const gone = await context.undo.promise({ kind: 'remove-local', path: place.temporary });
  await (await open(place.temporary, 'wx', 0o600)).close();
  return gone;
}
