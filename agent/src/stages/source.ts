import { HoldfastError } from '@holdfast/common/errors.ts';
import { Secret } from '@holdfast/common/secret.ts';
import type { DomainDisk } from '../libvirt/domainXml.ts';
import type { Virsh } from '../libvirt/virsh.ts';

/** The image of a stopped domain's disk, as QEMU opens it. */
export interface StoppedSource {
  /** Options for blockdev-add and qemu-img; an encrypted volume's key is expected under `secretId`. */
  options(secretId: string): object;
  /** The volume's own key in base64; undefined when it is not encrypted. */
  readonly secret: Secret | undefined;
}

/**
 * Finds out how to open the image of a stopped domain's disk, read-only and without a lock: a lock would make the start
 * of the domain fail.
 *
 * @throws HoldfastError DISK_UNSUPPORTED
 */
export async function stoppedSource(virsh: Virsh, disk: DomainDisk): Promise<StoppedSource> {
  const protocol = { file: 'file', block: 'host_device' }[disk.sourceType];
  if (protocol === undefined || (disk.format !== 'qcow2' && disk.format !== 'raw')) {
    throw new HoldfastError(
      'DISK_UNSUPPORTED',
      `Disk ${disk.target} (${disk.source}) has a source of type ${disk.sourceType} and format ${disk.format}; of a ` +
        'stopped domain only qcow2 and raw images in files and block devices can be read. Start the domain and try again.',
    );
  }
  const file = { driver: protocol, filename: disk.source, locking: 'off', 'read-only': true };
  const luks = disk.encryption?.format === 'luks';
  const secret = luks ? await volumeKey(virsh, disk) : undefined;
  return {
    secret,
    options: (secretId) => {
      if (disk.format === 'raw') {
        return luks
          ? { driver: 'luks', 'key-secret': secretId, file, 'read-only': true }
          : { driver: 'raw', file, 'read-only': true };
      }
      const encrypt = luks ? { encrypt: { format: 'luks', 'key-secret': secretId } } : {};
      return { driver: 'qcow2', file, 'read-only': true, ...encrypt };
    },
  };
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
