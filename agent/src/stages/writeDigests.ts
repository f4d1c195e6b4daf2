import type { DigestList, ManifestDisk } from '@holdfast/proto/holdfast/v1/manifest.ts';
import { encodeDigests } from '../digests/digestList.ts';
import { sha256 } from '@holdfast/common/manifestDigest.ts';
import type { WriteFile } from '../repository/savedFile.ts';
import type { BackupDigests, DiskDigests } from './digest.ts';

/** What the manifest says of the digests of a disk. */
export type DigestLists = Pick<ManifestDisk, 'storedDigests' | 'contentDigests'>;

/** Writes the digests of a disk beside its image, as far as there are any. */
export async function writeDigests(
  write: WriteFile,
  target: string,
  { stored, content }: BackupDigests,
  encrypted: boolean,
): Promise<DigestLists> {
  const list = async (
    kind: 'stored' | 'content',
    digests: DiskDigests | undefined,
    algorithm: string,
  ): Promise<DigestList | undefined> => {
    if (digests === undefined) return undefined;
    const file = `${target}.${kind}.sha256`;
    const bytes = encodeDigests(digests.digests);
    await write(file, bytes);
    const { chunkBytes, origin } = digests;
    return { file, sha256: sha256(bytes), chunkBytes: BigInt(chunkBytes), algorithm, origin };
  };
  return {
    storedDigests: await list('stored', stored?.get(target), 'sha256'),
    contentDigests: await list('content', content?.get(target), encrypted ? 'hmac-sha256' : 'sha256'),
  };
}
