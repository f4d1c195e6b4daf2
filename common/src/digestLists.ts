import type { DigestList, ManifestDisk } from '@holdfast/proto/holdfast/v1/manifest.ts';
import { HoldfastError } from './errors.ts';

/** The digests of a disk that a level of verification compares; undefined where there are none, as for metadata. */
export function digestsAt(
  level: string,
  disk: Pick<ManifestDisk, 'storedDigests' | 'contentDigests'>,
): DigestList | undefined {
  if (level === 'metadata') return undefined;
  return level === 'stored' ? disk.storedDigests : disk.contentDigests;
}

/**
 * Refuses a level that compares digests which a backup was taken without.
 *
 * @throws HoldfastError DIGESTS_MISSING
 */
export function requireDigests(backupId: string, disks: readonly ManifestDisk[], level: string): void {
  if (level === 'metadata') return;
  const without = disks.filter((disk) => digestsAt(level, disk) === undefined).map(({ target }) => target);
  if (without.length === 0) return;
  throw new HoldfastError(
    'DIGESTS_MISSING',
    `Backup ${backupId} was taken without ${level} digests of ${without.join(', ')}, so level ${level} cannot be proved. ` +
      `Verify it at another level, and set nas.backup.integrity.digests to ${level} for the next ones.`,
    { metadata: { backup: backupId } },
  );
}
