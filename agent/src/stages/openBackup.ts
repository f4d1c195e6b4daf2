import { HoldfastError } from '@holdfast/common/errors.ts';
import { Secret } from '@holdfast/common/secret.ts';
import type { BackupRef } from '@holdfast/proto/holdfast/agent/v1/agent.ts';
import type { Manifest, ManifestDisk } from '@holdfast/proto/holdfast/v1/manifest.ts';
import { readManifest, sha256 } from '../repository/manifestFile.ts';
import type { Repository } from '../repository/repository.ts';
import type { CheckDisk } from './check.ts';
import type { StageEnd } from './context.ts';

/** A disk of a published backup: an image that can be checked and read. */
export type PublishedDisk = CheckDisk & { readonly manifest: ManifestDisk };

/** A published backup, as far as its manifest and its files' lengths prove it. */
export interface PublishedBackup {
  readonly manifest: Manifest;
  readonly secret: Secret | undefined;
  readonly disks: readonly PublishedDisk[];
  /** The bytes of the file with the domain XML, still encrypted when the backup is. */
  readonly domainXml: Uint8Array;
}

const MAX_XML_BYTES = 16 * 1024 * 1024;

/**
 * Finds a published backup and refuses one whose files are not as the manifest says.
 *
 * @throws HoldfastError BACKUP_NOT_FOUND, BACKUP_DAMAGED, KEY_WRONG
 */
export async function* openBackup(
  repository: Repository,
  ref: BackupRef,
): AsyncGenerator<never, StageEnd<PublishedBackup>, undefined> {
  yield* [];
  await repository.probe();
  const secret = ref.secret === '' ? undefined : new Secret(ref.secret);
  const manifest = await readManifest(repository, ref.path, { sha256: ref.manifestSha256, secret });
  if (manifest.backupId !== ref.backupId) {
    throw new HoldfastError(
      'BACKUP_DAMAGED',
      `${ref.path} holds backup ${manifest.backupId}, not backup ${ref.backupId}.`,
    );
  }
  const disks: PublishedDisk[] = [];
  for (const disk of manifest.disks) {
    const path = `${ref.path}/${disk.file}`;
    const bytes = await repository.fileBytes(path);
    if (bytes === undefined || BigInt(bytes) !== disk.storedBytes) {
      throw new HoldfastError(
        'BACKUP_DAMAGED',
        `The image of disk ${disk.target} (${path}) ` +
          (bytes === undefined ? 'is missing.' : `has ${bytes} bytes; ${disk.storedBytes} were published.`),
        { metadata: { disk: disk.target } },
      );
    }
    disks.push({
      manifest: disk,
      target: disk.target,
      path: repository.pathOf(path),
      layout: disk.layout,
      secret: manifest.encryption === undefined ? undefined : secret,
      storedBytes: bytes,
    });
  }
  const domainXml = await repository.readFile(`${ref.path}/${manifest.domainXmlFile}`, MAX_XML_BYTES);
  if (domainXml === undefined || sha256(domainXml) !== manifest.domainXmlSha256) {
    throw new HoldfastError(
      'BACKUP_DAMAGED',
      `${ref.path}/${manifest.domainXmlFile} is ${domainXml === undefined ? 'missing' : 'not as it was published'}.`,
    );
  }
  return { result: { manifest, secret, disks, domainXml } };
}
