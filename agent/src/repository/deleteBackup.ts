import { HoldfastError } from '@holdfast/common/errors.ts';
import { MANIFEST_FILE, parseBackupFolder, partialFolder } from './layout.ts';
import { MAX_MANIFEST_BYTES, parseManifest } from './manifestFile.ts';
import type { Repository } from './repository.ts';

/**
 * Removes a backup. It is gone from sight first, by one rename, so that a deletion that is interrupted leaves no half
 * backup behind. One that is gone already is no error.
 *
 * @param begin told right before the first change whether the backup is still in its place; what it throws ends all
 * @throws HoldfastError INVALID_REQUEST, BACKUP_DAMAGED when the folder says that it is another backup.
 */
export async function deleteBackup(
  repository: Repository,
  folder: string,
  backupId: string,
  begin: (isInPlace: boolean) => void = () => undefined,
): Promise<{ readonly freedBytes: bigint }> {
  // Exactly as this program names it, so that nothing else can be removed.
  if (parseBackupFolder(folder)?.backupId !== backupId) {
    throw new HoldfastError(
      'INVALID_REQUEST',
      `${JSON.stringify(folder)} is not the folder of backup ${backupId}.`,
    );
  }
  await repository.recognize();
  const doomed = partialFolder(folder);
  const isInPlace = await repository.hasFolder(folder);
  if (isInPlace) await requireSame(repository, folder, backupId);
  begin(isInPlace);
  if (isInPlace) await repository.renameFolder(folder, doomed);
  const { freedBytes } = await repository.removeFolder(doomed);
  return { freedBytes: BigInt(freedBytes) };
}

/**
 * Removes a backup with CloudStack's names, of Holdfast or of CloudStack's own script, and what a failed one left. Nothing
 * in it says whose it is, so a folder with folders in it, such as that of all backups of a VM, is not taken for one.
 *
 * @throws HoldfastError INVALID_REQUEST
 */
export async function deleteCloudStackBackup(
  repository: Repository,
  folder: string,
): Promise<{ readonly freedBytes: bigint }> {
  await repository.recognize();
  const folders = await repository.foldersIn(folder);
  if (folders !== undefined && folders.length > 0) {
    throw new HoldfastError(
      'INVALID_REQUEST',
      `${repository.pathOf(folder)} is not a backup: there are folders in it, such as ${JSON.stringify(folders[0])}. ` +
        'Nothing was removed.',
    );
  }
  const doomed = partialFolder(folder);
  const left = await repository.removeFolder(doomed);
  if (folders === undefined) return { freedBytes: BigInt(left.freedBytes) };
  await repository.renameFolder(folder, doomed);
  const { freedBytes } = await repository.removeFolder(doomed);
  return { freedBytes: BigInt(left.freedBytes + freedBytes) };
}

/** A manifest that cannot be read does not keep a damaged backup from being deleted: the folder's name has its id. */
async function requireSame(repository: Repository, folder: string, backupId: string): Promise<void> {
  const path = `${folder}/${MANIFEST_FILE}`;
  const bytes = await repository.readFile(path, MAX_MANIFEST_BYTES);
  if (bytes === undefined) return;
  let found: string;
  try {
    found = parseManifest(bytes, path).backupId;
  } catch (error) {
    if (error instanceof HoldfastError) return;
    throw error;
  }
  if (found !== backupId) {
    throw new HoldfastError(
      'BACKUP_DAMAGED',
      `${folder} holds backup ${found}, not ${backupId}. Nothing was removed.`,
    );
  }
}
