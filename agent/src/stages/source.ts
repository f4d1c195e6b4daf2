import { HoldfastError } from '@holdfast/common/errors.ts';
import { Secret } from '@holdfast/common/secret.ts';
import { clusterKey } from '../ceph/clusterKey.ts';
import { rbdWith } from '../ceph/rbd.ts';
import { parseRbdPath, rbdOptions, type RbdImage } from '../ceph/rbdImage.ts';
import type { DomainDisk } from '../libvirt/domainXml.ts';
import type { Virsh } from '../libvirt/virsh.ts';
import { fileStateOf } from '../process/fileState.ts';
import type { SourceSecrets } from '../qemu/extents.ts';
import type { JobContext } from './context.ts';

/** The image of a stopped domain's disk, as QEMU opens it. */
export interface StoppedSource {
  /** Options for blockdev-add and qemu-img. */
  readonly options: object;
  /** The volume's own key and its storage's, in base64, by the ids that the options name. */
  readonly secrets: SourceSecrets;
  /** Whether it stays as it is when the domain is started. */
  readonly snapshot: boolean;
  /** Of a file, what changes when anybody writes to it; undefined when that cannot be told. */
  readonly fileState: string | undefined;
}

type SourceContext = Pick<JobContext, 'header' | 'virsh' | 'undo' | 'runtimeDirectory'>;

/**
 * Finds out whether the volume of a stopped domain's disk is there and can be reached, as far as that can be asked without
 * making anything.
 *
 * @throws HoldfastError DISK_UNSUPPORTED, VOLUME_NOT_FOUND, VOLUME_REFUSED, VOLUME_STALLED
 */
export async function requireVolume(
  { virsh, runtimeDirectory }: Pick<JobContext, 'virsh' | 'runtimeDirectory'>,
  disk: DomainDisk,
): Promise<void> {
  if (disk.rbd !== undefined) await rbdWith(virsh, runtimeDirectory).info(imageOf(disk, disk.rbd));
}

/**
 * Finds out how to open the image of a stopped domain's disk, read-only and without a lock: a lock would make the start
 * of the domain fail. Of an RBD image that is a snapshot, made now and removed when the job ends.
 *
 * @throws HoldfastError DISK_UNSUPPORTED, VOLUME_NOT_FOUND, VOLUME_REFUSED, VOLUME_STALLED
 */
export async function stoppedSource(context: SourceContext, disk: DomainDisk): Promise<StoppedSource> {
  if (disk.format !== 'qcow2' && disk.format !== 'raw') throw unsupported(disk);
  const { file, ...storage } = await storageOf(context, disk);
  if (disk.encryption?.format !== 'luks') {
    return { ...storage, options: { driver: disk.format, file, 'read-only': true } };
  }
  if (disk.encryption.engine !== 'qemu') throw unsupported(disk);
  const volumeSecret = `volume-key-${disk.target}`;
  const options =
    disk.format === 'raw'
      ? { driver: 'luks', 'key-secret': volumeSecret, file, 'read-only': true }
      : { driver: 'qcow2', file, 'read-only': true, encrypt: { format: 'luks', 'key-secret': volumeSecret } };
  const secrets = new Map([...storage.secrets, [volumeSecret, await volumeKey(context.virsh, disk)]]);
  return { ...storage, options, secrets };
}

type Storage = Omit<StoppedSource, 'options'> & { readonly file: object };

async function storageOf(context: SourceContext, disk: DomainDisk): Promise<Storage> {
  if (disk.rbd !== undefined) return snapshotOf(context, disk, disk.rbd);
  const driver = { file: 'file', block: 'host_device' }[disk.sourceType];
  if (driver === undefined) throw unsupported(disk);
  return {
    file: { driver, filename: disk.source, locking: 'off', 'read-only': true },
    secrets: new Map(),
    snapshot: false,
    // Before anything of it is read.
    fileState: disk.sourceType === 'file' ? await fileStateOf(disk.source) : undefined,
  };
}

async function snapshotOf(
  context: SourceContext,
  disk: DomainDisk,
  source: NonNullable<DomainDisk['rbd']>,
): Promise<Storage> {
  const image = imageOf(disk, source);
  const snapshot = `holdfast-${context.header.jobId}`;
  const { runtimeDirectory: directory } = context;
  await context.undo.promise({ kind: 'remove-rbd-snapshot', image, snapshot, directory });
  await rbdWith(context.virsh, directory).createSnapshot(image, snapshot);
  const key = await clusterKey(context.virsh, image.cluster);
  const keySecret = `cluster-key-${disk.target}`;
  const options = rbdOptions(image, key === undefined ? undefined : keySecret);
  return {
    file: { ...options, snapshot, 'read-only': true },
    secrets: new Map(key === undefined ? [] : [[keySecret, key]]),
    snapshot: true,
    fileState: undefined,
  };
}

function imageOf(disk: DomainDisk, { cluster, snapshot }: NonNullable<DomainDisk['rbd']>): RbdImage {
  const image = parseRbdPath(cluster, disk.source);
  if (image === undefined || snapshot !== '') throw unsupported(disk);
  return image;
}

function unsupported(disk: DomainDisk): HoldfastError {
  return new HoldfastError(
    'DISK_UNSUPPORTED',
    `Disk ${disk.target} (${disk.source}) has a source of type ${disk.sourceType} and format ${disk.format}; of a ` +
      'stopped domain only qcow2 and raw images in files, block devices and RBD can be read, unless librbd encrypts ' +
      'them. Start the domain and try again.',
  );
}

async function volumeKey(virsh: Virsh, disk: DomainDisk): Promise<Secret> {
  const uuid = disk.encryption?.secretUuid ?? '';
  const result = await virsh.attempt(['secret-get-value', uuid]);
  if (result.exitCode === 0) return new Secret(result.stdout.trim());
  throw new HoldfastError(
    'DISK_UNSUPPORTED',
    `Disk ${disk.target} (${disk.source}) is encrypted and libvirt does not give its secret ${uuid} away. ` +
      'Start the domain and try again: QEMU then reads the disk for the backup.',
  );
}
