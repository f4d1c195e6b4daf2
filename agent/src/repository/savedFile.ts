import { HoldfastError } from '@holdfast/common/errors.ts';
import type { Secret } from '@holdfast/common/secret.ts';
import type { SavedFile } from '@holdfast/proto/holdfast/v1/manifest.ts';
import { sha256 } from '@holdfast/common/manifestDigest.ts';
import type { Repository } from './repository.ts';

/** What is added to the name of a file that is encrypted to the backup's key. */
const ENCRYPTED_SUFFIX = '.age';

/** The largest file that is kept beside the images: UEFI variables have up to 64 MiB on some architectures. */
export const MAX_SAVED_BYTES = 128 * 1024 * 1024;

/** Writes a file beside the images of a backup. */
export type WriteFile = (name: string, content: Uint8Array) => Promise<void>;

/** Writes a small file beside the images, encrypted to the backup's key when there is one. */
export async function writeSavedFile(
  write: WriteFile,
  name: string,
  content: Uint8Array,
  key: Secret | undefined,
): Promise<SavedFile> {
  const bytes = key === undefined ? content : await encrypt(content, key);
  const file = key === undefined ? name : `${name}${ENCRYPTED_SUFFIX}`;
  await write(file, bytes);
  return { file, sha256: sha256(bytes), storedBytes: BigInt(bytes.length) };
}

/**
 * Reads a small file beside the images, still encrypted when the backup is.
 *
 * @throws HoldfastError BACKUP_DAMAGED when it is not as it was published.
 */
export async function readSavedFile(
  repository: Repository,
  folder: string,
  { file, sha256: digest }: Pick<SavedFile, 'file' | 'sha256'>,
): Promise<Uint8Array> {
  const path = `${folder}/${file}`;
  const bytes = await repository.readFile(path, MAX_SAVED_BYTES);
  if (bytes !== undefined && sha256(bytes) === digest) return bytes;
  throw new HoldfastError(
    'BACKUP_DAMAGED',
    `${path} is ${bytes === undefined ? 'missing' : 'not as it was published'}.`,
  );
}

/** What a small file holds. */
export async function decryptSavedFile(bytes: Uint8Array, key: Secret | undefined): Promise<Uint8Array> {
  if (key === undefined) return bytes;
  const { Decrypter } = await age();
  const decrypter = new Decrypter();
  decrypter.addIdentity(key.reveal());
  return decrypter.decrypt(bytes);
}

async function encrypt(content: Uint8Array, key: Secret): Promise<Uint8Array> {
  const { Encrypter, identityToRecipient } = await age();
  const encrypter = new Encrypter();
  encrypter.addRecipient(await identityToRecipient(key.reveal()));
  return encrypter.encrypt(content);
}

/** Loaded by those jobs only that need it: it is a third of what a job's process loads before it begins. */
function age() {
  return import('age-encryption');
}
