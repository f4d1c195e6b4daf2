import { dirname } from 'node:path';
import { HoldfastError } from '@holdfast/common/errors.ts';
import { Secret } from '@holdfast/common/secret.ts';
import type { RepositoryRef, TakeBackupStart } from '@holdfast/proto/holdfast/agent/v1/agent.ts';
import type { ExcludedDisk } from '@holdfast/proto/holdfast/v1/manifest.ts';
import type { Undoing } from '../jobs/undo.ts';
import { domainState, findDomain, type DomainId } from '../libvirt/domains.ts';
import { readDomainXml, type DomainDisk, type DomainXml } from '../libvirt/domainXml.ts';
import { runningBackup } from '../libvirt/backupJob.ts';
import { volumeIdOf } from '../libvirt/volumeId.ts';
import { idleIoEffect, type IdleIo } from '../process/idleIo.ts';
import { mapImage, type Extent } from '../qemu/extents.ts';
import {
  imageFileName,
  KEY_SECRET_ID,
  targetNodes,
  type ImageLayout,
  type TargetNodes,
} from '../qemu/layout.ts';
import { startStorageDaemon, storageDaemonPids, type StorageDaemon } from '../qemu/storageDaemon.ts';
import { backupFolder, partialFolder, ZONE_KEYS_FOLDER } from '../repository/layout.ts';
import { withoutPassword, type Repository } from '../repository/repository.ts';
import { chooseTransport, type ChosenTransport } from '../transport/choose.ts';
import { warning, type JobContext, type StageEnd } from './context.ts';
import type { JobEvent } from '../jobs/eventLog.ts';
import { domainStarted } from './domainStarted.ts';
import { lockDomain } from './lockDomain.ts';
import { openTarget } from './openTarget.ts';
import { selectDisks } from './selectDisks.ts';
import { requireVolume, stoppedSource, type StoppedSource } from './source.ts';

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
  /** The XML that restores the domain. */
  readonly persistentXml: string;
  readonly repository: Repository;
  readonly repositoryRef: RepositoryRef;
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
  const domain = await findDomain(virsh, start.domain);
  const running = isRunning(domain, await domainState(virsh, domain.uuid));
  const [liveXml, persistentXml, ofLibvirt] = await Promise.all([
    virsh.command(['dumpxml', domain.uuid]),
    virsh.command(['dumpxml', '--inactive', domain.uuid]),
    running ? runningBackup(virsh, domain.uuid) : undefined,
  ]);
  const xml = readDomainXml(liveXml);
  const { included, excluded } = selectDisks(domain.name, xml.disks);
  refuseUnsafe(start, included);
  if (ofLibvirt !== undefined) {
    throw new HoldfastError(
      'DOMAIN_BUSY',
      'libvirt already runs a backup of the domain. Try again when it has ended.',
    );
  }
  const scratchRoot = dirname(context.scratchDirectory);
  const transport = await chooseTransport(start.options?.transport ?? '', running, scratchRoot);
  const repositoryRef = required(start.repository, 'repository');
  const repository = await context.openRepository(repositoryRef);
  const [offered] = await Promise.all([
    running ? Promise.all(included.map((disk) => describeOffered(context, domain, disk))) : undefined,
    running ? undefined : Promise.all(included.map((disk) => requireVolume(context, disk))),
    repository.probe(),
  ]);

  await lockDomain(context, domain);
  const disks = offered ?? (await openVolumes(context, domain, included));
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
  const known = readDomainXml(persistentXml).disks.map((disk) => disk.target);
  for (const disk of included.filter((candidate) => !known.includes(candidate.target))) {
    yield warning(
      'DISK_NOT_IN_CONFIG',
      `Disk ${disk.target} is in the backup, but not in the domain's persistent configuration: a restored domain lacks it.`,
      disk.target,
    );
  }
  const layout: ImageLayout = {
    compression: (start.options?.compression ?? '') as ImageLayout['compression'],
    encrypted: start.key !== undefined,
  };
  const folder = backupFolder(domain.uuid, context.now(), start.backupId);
  const partial = await context.undo.promise({
    kind: 'remove-folder',
    repository: withoutPassword(repositoryRef),
    folder: partialFolder(folder),
  });
  await repository.makeFolder(partialFolder(folder));
  if (start.key !== undefined) await storeZoneKey(repository, start.key.keyId, start.key.zoneKeyFile);

  const daemonStop = await context.undo.promise({
    kind: 'stop-storage-daemon',
    directory: context.runtimeDirectory,
  });
  const daemon = await startStorageDaemon(
    context.runtimeDirectory,
    context.logger,
    context.control.signal,
    running ? 'none' : 'idle',
  );
  const [daemonPid = 0] = await storageDaemonPids(context.runtimeDirectory);
  const idleIo = running
    ? { effective: false, reason: 'The disks of a running domain are read by its own QEMU.' }
    : await idleIoEffect(
        daemonPid,
        included.map((disk) => disk.source),
      );
  const key = start.key === undefined ? undefined : new Secret(start.key.secret);
  if (key !== undefined) await daemon.addSecret(KEY_SECRET_ID, key);
  const prepared = disks.map((disk) => ({
    ...disk,
    file: imageFileName(disk.disk.target, layout),
    nodes: targetNodes(disk.disk.target),
  }));
  for (const disk of prepared) await repository.createFile(`${partialFolder(folder)}/${disk.file}`);
  // Deriving LUKS keys takes a second or two each.
  await Promise.all(
    prepared.map((disk) =>
      openTarget(
        daemon,
        { ...disk, layout, path: repository.pathOf(`${partialFolder(folder)}/${disk.file}`) },
        control.signal,
      ),
    ),
  );
  const result: Prepared = {
    domain,
    running,
    transport,
    idleIo,
    xml,
    persistentXml,
    repository,
    repositoryRef,
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

function isRunning(domain: DomainId, state: string): boolean {
  if (state === 'running') return true;
  if (state === 'shut off') return false;
  throw new HoldfastError(
    'DOMAIN_STATE',
    `Domain ${JSON.stringify(domain.name)} is ${state}; only a running domain or one that is shut off can be backed up.`,
    { metadata: { state } },
  );
}

function refuseUnsafe(start: TakeBackupStart, disks: readonly DomainDisk[]): void {
  const encrypted = disks.filter((disk) => disk.encryption !== undefined).map((disk) => disk.target);
  if (encrypted.length === 0 || start.key !== undefined || start.options?.allowPlaintext === true) return;
  throw new HoldfastError(
    'SOURCE_ENCRYPTED',
    `The source volumes of disks ${encrypted.join(', ')} are encrypted and the backup would not be. Turn encryption ` +
      'on (nas.backup.encryption.enabled), or allow plain text in the request.',
  );
}

type DescribedDisk = Pick<PreparedDisk, 'disk' | 'volumeId' | 'virtualSizeBytes' | 'stopped'>;

/** A disk that the running domain's QEMU will offer; where its data is, is known then. */
async function describeOffered(
  { virsh }: JobContext,
  domain: DomainId,
  disk: DomainDisk,
): Promise<DescribedDisk> {
  const info = await virsh.command(['domblkinfo', domain.uuid, disk.target]);
  const virtualSizeBytes = Number(/^Capacity:\s+(\d+)$/m.exec(info)?.[1]);
  if (virtualSizeBytes > 0)
    return { disk, volumeId: await volumeIdOf(disk), virtualSizeBytes, stopped: undefined };
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
  if (hasSnapshots && (await domainState(context.virsh, domain.uuid)) !== 'shut off')
    throw domainStarted(domain);
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
    return { disk, volumeId: await volumeIdOf(disk), virtualSizeBytes, stopped: { ...source, extents } };
  } catch (error) {
    if (!(error instanceof HoldfastError)) throw error;
    throw new HoldfastError('DISK_UNSUPPORTED', `Disk ${disk.target} (${disk.source}): ${error.message}`, {
      cause: error,
    });
  }
}

/** Writes the zone's key under its passphrase to the repository, unless it is there already. */
async function storeZoneKey(repository: Repository, keyId: string, content: Uint8Array): Promise<void> {
  const path = `${ZONE_KEYS_FOLDER}/${keyId}.age`;
  await repository.makeFolder(ZONE_KEYS_FOLDER);
  const stored = await repository.readFile(path, 65_536);
  if (stored === undefined || !Buffer.from(stored).equals(content)) await repository.writeFile(path, content);
}

/** A message field that the api has checked to be there. */
function required<Value>(value: Value | undefined, name: string): Value {
  if (value === undefined) throw new HoldfastError('INVALID_REQUEST', `${name} is missing.`);
  return value;
}
