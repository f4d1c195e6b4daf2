/**
 * What lies in a repository:
 *
 *     repository-id                                 a UUID on a line, by which the file system is known again
 *     zone-keys/<key id>.age                        the zone's key under the zone's passphrase
 *     <domain UUID>/<UTC time>-<backup id>/         a published backup
 *     <domain UUID>/<UTC time>-<backup id>.partial/ one that is being written, or was never finished
 */
export const REPOSITORY_ID_FILE = 'repository-id';
export const MANIFEST_FILE = 'manifest.json';
export const MAC_FILE = 'manifest.hmac';
export const WRAPPED_KEY_FILE = 'key.age';
export const DOMAIN_XML_FILE = 'domain.xml';
export const NVRAM_FILE = 'nvram.fd';
export const LIBVIRT_METADATA_FILE = 'libvirt-metadata.xml';
export const ZONE_KEYS_FOLDER = 'zone-keys';

/** The folder of a backup, relative to its repository. Names of domains can be hostile, so they are not in it. */
export function backupFolder(domainUuid: string, at: Date, backupId: string): string {
  const time = at
    .toISOString()
    .replace(/\.\d+Z$/, 'Z')
    .replaceAll(/[-:]/g, '');
  return `${domainUuid}/${time}-${backupId}`;
}

/** The name that a folder has while it is written or removed. */
export function partialFolder(folder: string): string {
  return `${folder}.partial`;
}
