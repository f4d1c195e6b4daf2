import type { BackupResult } from '@holdfast/proto/holdfast/v1/event.ts';
import { MANIFEST_FILE } from '../repository/layout.ts';
import { MAX_MANIFEST_BYTES, parseManifest, sha256 } from '../repository/manifestFile.ts';
import type { JournaledRef, Repository } from '../repository/repository.ts';
import type { JournalEntry } from './journal.ts';

/** The backup that a killed job had published already, by its journal and by what is on the repository. */
export async function publishedBackup(
  entries: readonly JournalEntry[],
  openRepository: (ref: JournaledRef) => Promise<Repository>,
): Promise<BackupResult | undefined> {
  const publishing = entries.findLast((entry) => entry.kind === 'publishing');
  if (publishing === undefined) return undefined;
  const repository = await openRepository(publishing.repository);
  try {
    const path = `${publishing.folder}/${MANIFEST_FILE}`;
    const bytes = await repository.readFile(path, MAX_MANIFEST_BYTES);
    if (bytes === undefined || sha256(bytes) !== publishing.manifestSha256) return undefined;
    return {
      path: publishing.folder,
      manifest: parseManifest(bytes, path),
      manifestSha256: publishing.manifestSha256,
    };
  } finally {
    repository.close();
  }
}
