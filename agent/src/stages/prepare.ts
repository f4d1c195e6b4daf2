import { dirname } from 'node:path';
import { HoldfastError } from '@holdfast/common/errors.ts';
import type { Secret } from '@holdfast/common/secret.ts';
import type { RepositoryRef, TakeBackupStart } from '@holdfast/proto/holdfast/agent/v1/agent.ts';
import type { ExcludedDisk } from '@holdfast/proto/holdfast/v1/manifest.ts';
import type { Undoing } from '../jobs/undo.ts';
import { keyOf, layoutOf, type BackupFile, type BackupLayout } from '../layouts/layout.ts';
import { stateNow, type DomainId } from '../libvirt/domains.ts';
import { readDomainXml, type DomainDisk, type DomainXml } from '../libvirt/domainXml.ts';
import { runningBackup } from '../libvirt/backupJob.ts';
import { requireNoLostBackup } from '../libvirt/lostBackup.ts';
import { volumeIdOf } from '../libvirt/volumeId.ts';
import { idleIoEffect, type IdleIo } from '../process/idleIo.ts';
import { together } from '../process/together.ts';
import { mapImage, totalBytes, type Extent } from '../qemu/extents.ts';
import { KEY_SECRET_ID, targetNodes, type ImageLayout, type TargetNodes } from '../qemu/layout.ts';
import { startStorageDaemon, storageDaemonPids, type StorageDaemon } from '../qemu/storageDaemon.ts';
import { partialFolder } from '../repository/layout.ts';
import type { WatchedRepository } from '../repository/liveness.ts';
import { withoutPassword } from '../repository/repository.ts';
import { chooseTransport, type ChosenTransport } from '../transport/choose.ts';
import { warning, type JobContext, type StageEnd } from './context.ts';
import type { JobEvent } from '../jobs/eventLog.ts';
import { domainStarted } from './domainStarted.ts';
import { lockDomain } from './lockDomain.ts';
import { openTarget } from './openTarget.ts';
import { requireRepositorySpace, requireReserve, type SpaceDisk } from './repositorySpace.ts';
import { requireVolume, stoppedSource, type StoppedSource } from './source.ts';
import { findSubject } from './subject.ts';

/** A disk with its source and its empty image. */
export interface PreparedDisk {
  readonly disk: DomainDisk;
  /** Its name in its own storage, empty when that is its path. */
  readonly volumeId: string;
  readonly virtualSizeBytes: number;
  /** The image's file name in the backup's folder. */
  readonly file: string;
  readonly nodes: TargetNodes;
  /** How to open the source; undefined when the running domain's QEMU offers it. */
  readonly stopped: (StoppedSource & { readonly extents: readonly Extent[] }) | undefined;
}

/** Everything that a backup needs before it touches the guest. */
export interface Prepared {
  readonly domain: DomainId;
  readonly running: boolean;
  readonly transport: ChosenTransport;
  readonly idleIo: IdleIo;
  readonly xml: DomainXml;
  readonly repository: WatchedRepository;
  readonly repositoryRef: RepositoryRef;
  /** Throws once the repository does not answer any more, or only what is to stay free is left on it. */
  readonly requireRepository: () => void;
  readonly backupLayout: BackupLayout;
  /** What is kept of the domain beside its disks. */
  readonly domainFiles: readonly BackupFile[];
  /** The folder under its final name. */
  readonly folder: string;
  readonly partial: Undoing;
  readonly layout: ImageLayout;
  readonly key: Secret | undefined;
  readonly disks: readonly PreparedDisk[];
  readonly excluded: readonly ExcludedDisk[];
  readonly daemon: StorageDaemon;
  readonly daemonStop: Undoing;
}

/** Checks everything, then makes the empty images, so that the guest never waits for the repository. */
export async function* prepare(
  context: JobContext,
  start: TakeBackupStart,
): AsyncGenerator<JobEvent, StageEnd<Prepared>, undefined> {
  const { virsh, control } = context;
  const subject = await findSubject(virsh, start);
  const { domain, running, xml, included, excluded } = subject;
  refuseUnsafe(start, included);
  if (running && (await runningBackup(virsh, domain.uuid)) !== undefined) {
    throw new HoldfastError(
      'DOMAIN_BUSY',
      'libvirt already runs a backup of the domain. Try again when it has ended.',
    );
  }
  if (running) await requireNoLostBackup(virsh, domain.uuid, JSON.stringify(domain.name));
  const scratchRoot = dirname(context.scratchDirectory);
  const transport = await chooseTransport(start.options?.transport ?? '', running, scratchRoot);
  const layout: ImageLayout = {
    compression: (start.options?.compression ?? '') as ImageLayout['compression'],
    encrypted: keyOf(start) !== undefined,
    byPassphrase: start.passphrase !== '',
    pushed: transport.name === 'push',
  };
  const backupLayout = layoutOf(start);
  const imageNames = await backupLayout.imageNames(included, layout);
  const domainFiles = await backupLayout.domainFiles(virsh, subject);
  const reservePercent = start.options?.repositoryReservePercent ?? 0;
  const repositoryRef = required(start.repository, 'repository');
  const repository = await context.openRepository(repositoryRef);
  // A probe that is cut off leaves its file behind.
  const [offered, , space] = await together(
    running ? Promise.all(included.map((disk) => describeOffered(context, domain, disk))) : undefined,
    running ? undefined : Promise.all(included.map((disk) => requireVolume(context, disk))),
    repository.probe(),
  );

  await lockDomain(context, domain);
  const disks = offered ?? (await openVolumes(context, domain, included));
  await requireRepositorySpace(context, { name: repository.name, space }, disks.map(spaceOf), {
    storedRatio: storedRatioOf(start, layout),
    reservePercent,
  });
  if (transport.unexpected) {
    yield warning(
      'PUSH_CHOSEN',
      `The backup is pushed. ${transport.reason} Set nas.backup.transport to push or pull to have it so every time.`,
    );
  }
  for (const disk of included.filter((candidate) => candidate.shareable)) {
    yield warning(
      'SHAREABLE_DISK',
      `Disk ${disk.target} is shareable: what other domains write to it meanwhile is in the backup or not.`,
      disk.target,
    );
  }
  const known = running ? readDomainXml(subject.persistentXml).disks : included;
  for (const disk of included.filter(({ target }) => !known.some((other) => other.target === target))) {
    yield warning(
      'DISK_NOT_IN_CONFIG',
      `Disk ${disk.target} is in the backup, but not in the domain's persistent configuration: a restored domain lacks it.`,
      disk.target,
    );
  }
  const folder = backupLayout.folder(domain, context.now());
  await backupLayout.ready(repository, folder);
  const partial = await context.undo.promise({
    kind: 'remove-folder',
    repository: withoutPassword(repositoryRef),
    folder: partialFolder(folder),
  });
  await repository.makeFolder(partialFolder(folder));

  const daemonStop = await context.undo.promise({
    kind: 'stop-storage-daemon',
    directory: context.runtimeDirectory,
  });
  const daemon = await startStorageDaemon(context.runtimeDirectory, context.logger, context.control.signal, {
    ioClass: running ? 'none' : 'idle',
    isExcused: () => repository.stalledSince !== undefined,
  });
  const [daemonPid = 0] = await storageDaemonPids(context.runtimeDirectory);
  const idleIo = running
    ? { effective: false, reason: 'The disks of a running domain are read by its own QEMU.' }
    : await idleIoEffect(
        daemonPid,
        included.map((disk) => disk.source),
      );
  const key = keyOf(start);
  if (key !== undefined) await daemon.addSecret(KEY_SECRET_ID, key);
  const prepared = disks.map((disk, index) => ({
    ...disk,
    file: imageNames[index] ?? '',
    nodes: targetNodes(disk.disk.target),
  }));
  for (const disk of prepared) await repository.createFile(`${partialFolder(folder)}/${disk.file}`);
  // Deriving LUKS keys takes a second or two each.
  await repository.whileAnswering(
    Promise.all(
      prepared.map((disk) =>
        openTarget(
          daemon,
          { ...disk, layout, path: repository.pathOf(`${partialFolder(folder)}/${disk.file}`) },
          control.signal,
        ),
      ),
    ),
  );
  const result: Prepared = {
    domain,
    running,
    transport,
    idleIo,
    xml,
    repository,
    repositoryRef,
    requireRepository: () => {
      repository.requireAnswer();
      requireReserve(repository.name, repository.space, reservePercent);
    },
    backupLayout,
    domainFiles,
    folder,
    partial,
    layout,
    key,
    disks: prepared,
    excluded,
    daemon,
    daemonStop,
  };
  return { result };
}

function refuseUnsafe(start: TakeBackupStart, disks: readonly DomainDisk[]): void {
  const encrypted = disks.filter((disk) => disk.encryption !== undefined).map((disk) => disk.target);
  if (encrypted.length === 0 || keyOf(start) !== undefined || start.options?.allowPlaintext === true) return;
  throw new HoldfastError(
    'SOURCE_ENCRYPTED',
    `The source volumes of disks ${encrypted.join(', ')} are encrypted and the backup would not be. Turn encryption ` +
      'on (nas.backup.encryption.enabled), or allow plain text in the request.',
  );
}

/** Without compression an image takes what its data does; with it, only an earlier backup tells. */
function storedRatioOf(start: TakeBackupStart, layout: ImageLayout): number | undefined {
  if (start.storedRatio > 0) return start.storedRatio;
  return layout.compression === '' ? 1 : undefined;
}

function spaceOf({ disk, allocatedBytes, stopped }: DescribedDisk): SpaceDisk {
  const driver = { file: 'file', block: 'host_device' }[disk.sourceType];
  const isReadable = driver !== undefined && disk.encryption === undefined;
  const file = { driver, filename: disk.source, locking: 'off', 'read-only': true };
  return {
    target: disk.target,
    dataBytes: stopped && totalBytes(stopped.extents),
    allocatedBytes,
    options: isReadable ? { driver: disk.format, file, 'read-only': true } : undefined,
  };
}

type DescribedDisk = Pick<PreparedDisk, 'disk' | 'volumeId' | 'virtualSizeBytes' | 'stopped'> & {
  readonly allocatedBytes: number;
};

/** A disk that the running domain's QEMU will offer; where its data is, is known then. */
async function describeOffered(
  { virsh }: JobContext,
  domain: DomainId,
  disk: DomainDisk,
): Promise<DescribedDisk> {
  const info = await virsh.command(['domblkinfo', domain.uuid, disk.target]);
  const virtualSizeBytes = Number(/^Capacity:\s+(\d+)$/m.exec(info)?.[1]);
  const allocatedBytes = Math.min(Number(/^Allocation:\s+(\d+)$/m.exec(info)?.[1] ?? 0), virtualSizeBytes);
  if (virtualSizeBytes > 0)
    return {
      disk,
      volumeId: await volumeIdOf(disk),
      virtualSizeBytes,
      allocatedBytes,
      stopped: undefined,
    };
  throw new HoldfastError('LIBVIRT_FAILED', `libvirt does not know the size of disk ${disk.target}.`);
}

/**
 * Maps the volumes of a stopped domain, which proves that they can be read. Snapshots are of one instant when the domain
 * is still at rest after the last of them.
 */
async function openVolumes(
  context: JobContext,
  domain: DomainId,
  included: readonly DomainDisk[],
): Promise<readonly DescribedDisk[]> {
  const disks: DescribedDisk[] = [];
  // One after the other: when one fails, none of the others may still be making its snapshot.
  for (const disk of included) disks.push(await openVolume(context, disk));
  const hasSnapshots = disks.some(({ stopped }) => stopped?.snapshot === true);
  if (hasSnapshots && (await stateNow(context.virsh, domain)) !== 'shut off') throw domainStarted(domain);
  return disks;
}

async function openVolume(context: JobContext, disk: DomainDisk): Promise<DescribedDisk> {
  const source = await stoppedSource(context, disk);
  try {
    const { virtualSizeBytes, extents } = await mapImage(
      source.options,
      source.secrets,
      context.runtimeDirectory,
      context.control.signal,
    );
    return {
      disk,
      volumeId: await volumeIdOf(disk),
      virtualSizeBytes,
      allocatedBytes: totalBytes(extents),
      stopped: { ...source, extents },
    };
  } catch (error) {
    if (!(error instanceof HoldfastError)) throw error;
    throw new HoldfastError('DISK_UNSUPPORTED', `Disk ${disk.target} (${disk.source}): ${error.message}`, {
      cause: error,
    });
  }
}

/** A message field that the api has checked to be there. */
function required<Value>(value: Value | undefined, name: string): Value {
  if (value === undefined) throw new HoldfastError('INVALID_REQUEST', `${name} is missing.`);
  return value;
}
