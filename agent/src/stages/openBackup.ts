import { HoldfastError } from '@holdfast/common/errors.ts';
import { Secret } from '@holdfast/common/secret.ts';
import type { BackupRef } from '@holdfast/proto/holdfast/agent/v1/agent.ts';
import type { Manifest, ManifestDisk } from '@holdfast/proto/holdfast/v1/manifest.ts';
import { readManifest, savedFiles } from '../repository/manifestFile.ts';
import type { Repository } from '../repository/repository.ts';
import { decryptSavedFile, readSavedFile } from '../repository/savedFile.ts';
import type { CheckDisk } from './check.ts';
import type { StageEnd } from './context.ts';

/** A disk of a published backup: an image that can be checked and read. */
export type PublishedDisk = CheckDisk & { readonly manifest: ManifestDisk };

/** A published backup, as far as its manifest and its files' lengths prove it. */
export interface PublishedBackup {
  readonly manifest: Manifest;
  readonly secret: Secret | undefined;
  readonly disks: readonly PublishedDisk[];
  /** What the small files beside the images hold, by name, still encrypted when the backup is. */
  readonly savedFiles: ReadonlyMap<string, Uint8Array>;
}

/**
 * Finds a published backup and refuses one whose files are not as the manifest says.
 *
 * @param keyless whether an encrypted one may come without its key: its manifest is then proved by the catalogue alone
 *
 * @throws HoldfastError BACKUP_NOT_FOUND, BACKUP_DAMAGED, KEY_WRONG
 */
export async function* openBackup(
  repository: Repository,
  ref: BackupRef,
  { keyless = false }: { readonly keyless?: boolean } = {},
): AsyncGenerator<never, StageEnd<PublishedBackup>, undefined> {
  yield* [];
  await repository.recognize();
  const secret = ref.secret === '' ? undefined : new Secret(ref.secret);
  const expected = { sha256: ref.manifestSha256, secret, keyless };
  const manifest = await readManifest(repository, ref.path, expected);
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
  const small = new Map<string, Uint8Array>();
  const domainXml = { file: manifest.domainXmlFile, sha256: manifest.domainXmlSha256 };
  for (const saved of [domainXml, ...savedFiles(manifest)]) {
    small.set(saved.file, await readSavedFile(repository, ref.path, saved));
  }
  return { result: { manifest, secret, disks, savedFiles: small } };
}

/** What a small file of a backup holds. @throws Error when the backup has no such file */
export async function savedContent(backup: PublishedBackup, file: string): Promise<Uint8Array> {
  const bytes = backup.savedFiles.get(file);
  if (bytes === undefined) throw new Error(`${file} was not read`);
  return decryptSavedFile(bytes, backup.manifest.encryption === undefined ? undefined : backup.secret);
}

/** The XML of the backed-up domain. */
export async function domainXmlOf(backup: PublishedBackup): Promise<string> {
  return Buffer.from(await savedContent(backup, backup.manifest.domainXmlFile)).toString('utf8');
}
