/**
 * What lies in a repository:
 *
 *     repository-id                                 a UUID on a line, by which the file system is known again
 *     zone-keys/<key id>.age                        the zone's key under the zone's passphrase
 *     zone-keys/epoch                               the newest epoch of a controller that writes key files, in digits
 *     <domain UUID>/<UTC time>-<backup id>/         a published backup
 *     <domain UUID>/<UTC time>-<backup id>.partial/ one that is being written, or was never finished
 */
export const REPOSITORY_ID_FILE = 'repository-id';
export const MANIFEST_FILE = 'manifest.json';
export const MAC_FILE = 'manifest.hmac';
export const DOMAIN_XML_FILE = 'domain.xml';
export const NVRAM_FILE = 'nvram.fd';
export const LIBVIRT_METADATA_FILE = 'libvirt-metadata.xml';
export const ZONE_KEYS_FOLDER = 'zone-keys';
export const KEY_EPOCH_FILE = `${ZONE_KEYS_FOLDER}/epoch`;

/** The folder of a backup, relative to its repository. Names of domains can be hostile, so they are not in it. */
export function backupFolder(domainUuid: string, at: Date, backupId: string): string {
  const time = at
    .toISOString()
    .replace(/\.\d+Z$/, 'Z')
    .replaceAll(/[-:]/g, '');
  return `${domainUuid}/${time}-${backupId}`;
}

/** The file with a backup's own key, which the zone key of that id opens. */
export function keyFile(keyId: string): string {
  return `key.${keyId}.age`;
}

/** The id of the zone key that opens a file of a backup's folder; undefined when it is no such file. */
export function keyIdOfFile(name: string): string | undefined {
  return /^key\.(?<id>[\w-]{1,128})\.age$/.exec(name)?.groups?.['id'];
}

/** The zone's key of an id under the zone's passphrase. */
export function zoneKeyFile(keyId: string): string {
  return `${ZONE_KEYS_FOLDER}/${keyId}.age`;
}

/** What backupFolder put into a path; undefined when it did not make it. */
export function parseBackupFolder(
  folder: string,
): { readonly domainUuid: string; readonly backupId: string } | undefined {
  const { domainUuid, backupId } =
    /^(?<domainUuid>[0-9a-f-]{36})\/\d{8}T\d{6}Z-(?<backupId>[0-9a-f-]{36})$/.exec(folder)?.groups ?? {};
  return domainUuid === undefined || backupId === undefined ? undefined : { domainUuid, backupId };
}

const PARTIAL_SUFFIX = '.partial';

/** The name that a folder has while it is written or removed. */
export function partialFolder(folder: string): string {
  return `${folder}${PARTIAL_SUFFIX}`;
}

export function isPartial(folder: string): boolean {
  return folder.endsWith(PARTIAL_SUFFIX);
}

/** The id of the backup whose partial folder this is, named as backupFolder does it; undefined for any other folder. */
export function partialBackupId(folder: string): string | undefined {
  return /^[0-9a-f-]{36}\/\d{8}T\d{6}Z-(?<id>[0-9a-f-]{36})\.partial$/.exec(folder)?.groups?.['id'];
}

/** The name of the file by which a repository is proved to be writable. */
export function probeFile(id: string): string {
  return `.holdfast-probe-${id}`;
}

/** The name that a file has until it is whole. */
export function temporaryFile(path: string, id: string): string {
  return `${path}.${id}.tmp`;
}

/** Whether a path is one that probeFile or, among the zone keys, temporaryFile makes. */
export function isTemporaryFile(path: string): boolean {
  return /^(?:\.holdfast-probe-[0-9a-f-]{36}|zone-keys\/(?:epoch|[\w-]{1,128}\.age)\.[0-9a-f-]{36}\.tmp)$/.test(
    path,
  );
}
