import { basename } from 'node:path';
import { HoldfastError } from '@holdfast/common/errors.ts';
import type { DomainDisk } from '../libvirt/domainXml.ts';
import { volumeIdOf } from '../libvirt/volumeId.ts';
import { partialFolder } from '../repository/layout.ts';
import type { BackupLayout } from './layout.ts';

/** LINSTOR's resources are called cs-VOLUME by CloudStack. */
const LINSTOR_PREFIX = /^cs-/;
const DRBD_DEVICE = /^\/dev\/drbd(?:\d+$|\/)/;

/**
 * The names that CloudStack looks for when it restores a backup itself (LibvirtRestoreBackupCommandWrapper): the first
 * disk is root, every other a datadisk, and each is known by the id of its volume. What a running domain looks like lies
 * beside them, for people. There is no manifest.
 */
export function cloudStackLayout(folder: string): BackupLayout {
  return {
    keepsState: false,
    folder: () => folder,
    imageNames: async (disks) => {
      const names: string[] = [];
      for (const [index, disk] of disks.entries()) {
        const name = `${index === 0 ? 'root' : 'datadisk'}.${await cloudStackId(disk)}.qcow2`;
        if (names.includes(name)) {
          throw new HoldfastError(
            'DISK_UNSUPPORTED',
            `Two volumes of the domain would be called ${name} on the repository; ${disk.source} is the second of them. ` +
              'Rename one of the volumes.',
          );
        }
        names.push(name);
      }
      return names;
    },
    ready: async (repository) => {
      for (const taken of [folder, partialFolder(folder)]) {
        if (!(await repository.hasFolder(taken))) continue;
        throw new HoldfastError(
          'TARGET_EXISTS',
          `${repository.pathOf(taken)} is there already, and a backup does not write over another one. ` +
            'Choose another path, or delete that backup first.',
        );
      }
    },
    domainFiles: async (virsh, { domain, running, liveXml }) => {
      if (!running) return [];
      const tell = (command: string): Promise<string> =>
        virsh.command([command, domain.uuid], { headings: true });
      const texts: readonly (readonly [string, string])[] = [
        ['domain-config.xml', liveXml],
        // Text and not XML, whatever they are called.
        ['dominfo.xml', await tell('dominfo')],
        ['domiflist.xml', await tell('domiflist')],
        ['domblklist.xml', await tell('domblklist')],
      ];
      return texts.map(([name, text]) => ({ name, content: Buffer.from(`${text}\n`) }));
    },
    writeCompanions: async (write, { domainFiles, manifest, key }) => {
      for (const { name, content } of domainFiles) await write(name, content);
      return {
        manifest: {
          ...manifest,
          encryption: key === undefined ? undefined : { keyId: '', wrappedKeyFile: '', macFile: '' },
          domainXmlFile: domainFiles[0]?.name ?? '',
          domainXmlSha256: '',
          nvram: undefined,
          tpm: undefined,
          interfaces: [],
          blockDevices: [],
          libvirtMetadata: undefined,
        },
        manifestSha256: '',
      };
    },
  };
}

/**
 * The id by which CloudStack knows a volume.
 *
 * @throws HoldfastError DISK_UNSUPPORTED for a DRBD device whose resource is not known.
 */
export async function cloudStackId(disk: Pick<DomainDisk, 'source' | 'rbd'>): Promise<string> {
  const id = await volumeIdOf(disk);
  if (!DRBD_DEVICE.test(disk.source)) return basename(id === '' ? disk.source : id);
  if (id !== '') return id.replace(LINSTOR_PREFIX, '');
  throw new HoldfastError(
    'DISK_UNSUPPORTED',
    `${disk.source} belongs to no DRBD resource that udev knows, so its volume has no name that a restore would find. ` +
      'Name the volume by its path in /dev/drbd/by-res.',
  );
}
