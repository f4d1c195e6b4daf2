import { HoldfastError } from '@holdfast/common/errors.ts';
import type {
  FindKeyFilesRequest,
  FindKeyFilesResponse,
  WriteKeyFilesRequest,
  WriteKeyFilesResponse,
} from '@holdfast/proto/holdfast/agent/v1/agent.ts';
import { zoneKeyFile, ZONE_KEYS_FOLDER } from './layout.ts';
import type { Repository } from './repository.ts';

/** So many files of backups are told at once: a message has its limits. */
const MOST_FILES = 1_000;

/** Finds the key files that are asked for. */
export async function findKeyFiles(
  repository: Repository,
  { keyIds, zoneKeys }: FindKeyFilesRequest,
): Promise<FindKeyFilesResponse> {
  await repository.recognize();
  const found = await repository.findKeyFiles(keyIds, MOST_FILES, zoneKeys);
  const { more } = found;
  return {
    more,
    backups: found.backups.map((file) => ({ ...file, wrappedKey: Buffer.from(file.wrappedKey) })),
    zoneKeys: found.zoneKeys.map((file) => ({ ...file, content: Buffer.from(file.content) })),
  };
}

/**
 * Writes and removes key files. A backup's is written when those of zones are safe on disk, since one of them opens it.
 *
 * @throws HoldfastError STALE_EPOCH when a newer controller has written some
 */
export async function writeKeyFiles(
  repository: Repository,
  { zoneKeys, replacedZoneKeys, backups, fencingEpoch }: WriteKeyFilesRequest,
): Promise<WriteKeyFilesResponse> {
  await repository.recognize();
  const epoch = Number(fencingEpoch);
  const newest = await repository.acceptKeyEpoch(epoch);
  if (newest > epoch) {
    throw new HoldfastError(
      'STALE_EPOCH',
      `A newer controller (epoch ${newest}) writes the key files of this repository; this one has epoch ${epoch}.`,
      { metadata: { epoch: String(newest) } },
    );
  }
  for (const { keyId, content } of zoneKeys) {
    if (content.length === 0) await repository.removeZoneKeyFile(keyId);
    else await storeZoneKey(repository, keyId, content);
  }
  for (const { keyId, content } of replacedZoneKeys) {
    if ((await repository.fileBytes(zoneKeyFile(keyId))) !== undefined)
      await storeZoneKey(repository, keyId, content);
  }
  const missing = backups.length === 0 ? [] : await repository.writeBackupKeyFiles(backups, epoch);
  return { missingPaths: [...missing] };
}

/** Writes the zone's key under its passphrase to the repository, unless it is there already. */
export async function storeZoneKey(
  repository: Repository,
  keyId: string,
  content: Uint8Array,
): Promise<void> {
  const path = zoneKeyFile(keyId);
  await repository.makeFolder(ZONE_KEYS_FOLDER);
  const stored = await repository.readFile(path, 65_536);
  if (stored === undefined || !Buffer.from(stored).equals(content)) await repository.writeFile(path, content);
}
