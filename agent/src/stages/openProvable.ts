import { HoldfastError } from '@holdfast/common/errors.ts';
import type { BackupRef } from '@holdfast/proto/holdfast/agent/v1/agent.ts';
import { digestsAt, requireDigests } from '@holdfast/common/digestLists.ts';
import type { DigestList } from '@holdfast/proto/holdfast/v1/manifest.ts';
import { chunkCount } from '../digests/chunks.ts';
import { MAX_LIST_BYTES, parseDigests } from '../digests/digestList.ts';
import { sha256 } from '@holdfast/common/manifestDigest.ts';
import type { Repository } from '../repository/repository.ts';
import type { StageEnd } from './context.ts';
import type { DiskDigests } from './digest.ts';
import { openBackup } from './openBackup.ts';
import type { ProvableImage } from './prove.ts';

/**
 * Finds a published backup with the digests that a level of verification compares, all of it as the storage has it now.
 *
 * @throws HoldfastError BACKUP_NOT_FOUND, BACKUP_DAMAGED, KEY_WRONG, DIGESTS_MISSING
 */
export async function* openProvable(
  repository: Repository,
  ref: BackupRef,
  level: string,
): AsyncGenerator<never, StageEnd<readonly ProvableImage[]>, undefined> {
  await repository.dropCache(ref.path);
  const { result: backup } = yield* openBackup(repository, ref, { keyless: level === 'stored' });
  requireDigests(ref.backupId, backup.manifest.disks, level);
  const images: ProvableImage[] = [];
  for (const disk of backup.disks) {
    const { manifest, storedBytes } = disk;
    const virtualSizeBytes = Number(manifest.virtualSizeBytes);
    const list = digestsAt(level, manifest);
    const bytes = level === 'stored' ? storedBytes : virtualSizeBytes;
    images.push({
      ...disk,
      virtualSizeBytes,
      file: `${ref.path}/${manifest.file}`,
      digests: list && (await readList(repository, ref.path, list, bytes)),
    });
  }
  return { result: images };
}

async function readList(
  repository: Repository,
  folder: string,
  list: DigestList,
  bytes: number,
): Promise<DiskDigests> {
  const path = `${folder}/${list.file}`;
  const content = await repository.readFile(path, MAX_LIST_BYTES);
  const digests = content && sha256(content) === list.sha256 ? parseDigests(content) : undefined;
  const chunkBytes = Number(list.chunkBytes);
  if (digests?.length === chunkCount(bytes, chunkBytes)) return { chunkBytes, digests, origin: list.origin };
  throw new HoldfastError(
    'BACKUP_DAMAGED',
    `${path} is ${content === undefined ? 'missing' : 'not as it was published'}.`,
  );
}
