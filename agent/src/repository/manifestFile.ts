import { HoldfastError } from '@holdfast/common/errors.ts';
import { isManifestMac, sha256 } from '@holdfast/common/manifestDigest.ts';
import type { Secret } from '@holdfast/common/secret.ts';
import { Manifest, type SavedFile } from '@holdfast/proto/holdfast/v1/manifest.ts';
import { MAC_FILE, MANIFEST_FILE } from './layout.ts';
import type { Repository } from './repository.ts';

/** The only version of the manifest that there is. */
export const MANIFEST_VERSION = 1;

/** A plain name in the backup's own folder. */
const FILE_NAME = /^[^./\0][^/\0]*$/;

export const MAX_MANIFEST_BYTES = 16 * 1024 * 1024;

/** The bytes of manifest.json. */
export function encodeManifest(manifest: Manifest): Buffer {
  return Buffer.from(`${JSON.stringify(Manifest.toJSON(manifest), null, 2)}\n`);
}

/**
 * Reads the manifest of the backup in `folder` and proves that it is the one that was published: against the digest in
 * the catalogue when that is given, and under the backup's key when there is one. `keyless`: the digest is enough.
 *
 * @throws HoldfastError BACKUP_NOT_FOUND, BACKUP_DAMAGED, KEY_WRONG
 */
export async function readManifest(
  repository: Repository,
  folder: string,
  expected: { readonly sha256: string; readonly secret: Secret | undefined; readonly keyless?: boolean },
): Promise<Manifest> {
  const path = `${folder}/${MANIFEST_FILE}`;
  const bytes = await repository.readFile(path, MAX_MANIFEST_BYTES);
  if (bytes === undefined) {
    throw (await repository.hasFolder(folder))
      ? damaged(path, 'is missing')
      : new HoldfastError('BACKUP_NOT_FOUND', `There is no backup in ${repository.pathOf(folder)}.`);
  }
  if (expected.sha256 !== '' && sha256(bytes) !== expected.sha256) {
    throw damaged(
      path,
      'is not the one that was published: its SHA-256 differs from the one in the catalogue',
    );
  }
  const manifest = parseManifest(bytes, path);
  if (manifest.encryption !== undefined) {
    if (expected.secret === undefined) {
      if (expected.keyless === true && expected.sha256 !== '') return manifest;
      throw new HoldfastError('KEY_WRONG', `The backup in ${folder} is encrypted and no key was given.`);
    }
    await proveMac(repository, folder, bytes, expected.secret, expected.sha256 !== '');
  } else if (expected.secret !== undefined) {
    throw damaged(path, 'says that the backup is not encrypted, and it has a key');
  }
  return manifest;
}

/** @throws HoldfastError BACKUP_DAMAGED when it is not a manifest of a version that is known. */
export function parseManifest(bytes: Uint8Array, path: string): Manifest {
  let json: unknown;
  try {
    json = JSON.parse(Buffer.from(bytes).toString('utf8'));
  } catch {
    throw damaged(path, 'is not JSON, it may be cut off');
  }
  if (typeof json !== 'object' || json === null) throw damaged(path, 'is not a manifest');
  const manifest = fromJson(json, path);
  if (manifest.version !== MANIFEST_VERSION) {
    throw damaged(path, `has version ${manifest.version}, this Holdfast reads version ${MANIFEST_VERSION}`);
  }
  // File names come from a file on a NAS: they must not lead anywhere else.
  const files = [
    manifest.domainXmlFile,
    ...manifest.disks.flatMap(({ file, storedDigests, contentDigests }) => [
      ...[file, storedDigests?.file, contentDigests?.file].filter((name) => name !== undefined),
    ]),
    ...savedFiles(manifest).map((saved) => saved.file),
  ];
  if (manifest.backupId === '' || files.some((file) => !FILE_NAME.test(file))) {
    throw damaged(path, 'lacks fields that every manifest has');
  }
  return manifest;
}

/** The small files that lie beside the images, without the domain XML. */
export function savedFiles({ nvram, tpm, libvirtMetadata }: Manifest): readonly SavedFile[] {
  return [nvram?.file, tpm?.state, libvirtMetadata?.file].filter((file) => file !== undefined);
}

/** What is JSON and yet no manifest: null for a list, letters for a number. */
function fromJson(json: object, path: string): Manifest {
  try {
    return Manifest.fromJSON(json);
  } catch {
    throw damaged(path, 'is not a manifest');
  }
}

async function proveMac(
  repository: Repository,
  folder: string,
  bytes: Uint8Array,
  secret: Secret,
  knownBytes: boolean,
): Promise<void> {
  const stored = await repository.readFile(`${folder}/${MAC_FILE}`, 1_024);
  if (stored === undefined) throw damaged(`${folder}/${MAC_FILE}`, 'is missing');
  if (!isManifestMac(Buffer.from(stored).toString('utf8'), bytes, secret)) {
    // Bytes that the catalogue knows leave only the key, or the MAC itself, to be wrong.
    throw new HoldfastError(
      knownBytes ? 'KEY_WRONG' : 'BACKUP_DAMAGED',
      `${folder}/${MANIFEST_FILE} is not authentic: its MAC does not fit the backup's key.`,
    );
  }
}

function damaged(path: string, how: string): HoldfastError {
  return new HoldfastError('BACKUP_DAMAGED', `${path} ${how}.`);
}
