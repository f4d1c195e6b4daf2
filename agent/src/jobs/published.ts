import { BackupResult } from '@holdfast/proto/holdfast/v1/event.ts';
import { MANIFEST_FILE } from '../repository/layout.ts';
import { sha256 } from '@holdfast/common/manifestDigest.ts';
import { MAX_MANIFEST_BYTES } from '../repository/manifestFile.ts';
import type { JournaledRef, Repository } from '../repository/repository.ts';
import type { JournalEntry } from './journal.ts';

/** The backup that a killed job had published already, by its journal and by what is on the repository. */
export async function publishedBackup(
  entries: readonly JournalEntry[],
  openRepository: (ref: JournaledRef) => Repository | Promise<Repository>,
): Promise<BackupResult | undefined> {
  const publishing = entries.findLast((entry) => entry.kind === 'publishing');
  if (publishing === undefined) return undefined;
  const repository = await openRepository(publishing.repository);
  try {
    const { folder, manifestSha256 } = publishing;
    const isThere =
      manifestSha256 === ''
        ? await repository.hasFolder(folder)
        : await hasManifest(repository, folder, manifestSha256);
    return isThere ? BackupResult.fromJSON(publishing.result) : undefined;
  } finally {
    repository.close();
  }
}

async function hasManifest(repository: Repository, folder: string, expected: string): Promise<boolean> {
  const bytes = await repository.readFile(`${folder}/${MANIFEST_FILE}`, MAX_MANIFEST_BYTES);
  return bytes !== undefined && sha256(bytes) === expected;
}
