import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { HoldfastError } from '@holdfast/common/errors.ts';
import { Secret } from '@holdfast/common/secret.ts';
import { generateMasterKey } from './store/sealer.ts';

/** The name of the key among systemd's credentials. */
const CREDENTIAL = 'holdfast-master-key';

/** Where the master key may come from; the first that is given counts. */
export interface MasterKeySources {
  readonly file: string | undefined;
  readonly text: string | undefined;
  readonly credentialsDirectory: string | undefined;
}

/**
 * Reads the master key.
 *
 * @throws HoldfastError INVALID_REQUEST when there is none, or when the file cannot be read
 */
export async function readMasterKey(sources: MasterKeySources): Promise<Secret> {
  if (sources.file !== undefined) return await readMasterKeyFile(sources.file);
  if (sources.text !== undefined && sources.text !== '') return new Secret(sources.text.trim());
  if (sources.credentialsDirectory !== undefined) {
    return await readMasterKeyFile(join(sources.credentialsDirectory, CREDENTIAL));
  }
  throw new HoldfastError(
    'INVALID_REQUEST',
    'There is no master key, under which stored passphrases and keys are sealed. Name its file with --master-key-file, ' +
      `give it in HOLDFAST_MASTER_KEY or as the systemd credential ${CREDENTIAL}, or make one with --create-master-key FILE.`,
  );
}

/**
 * Makes a new master key in a new file with mode 0600.
 *
 * @throws HoldfastError TARGET_EXISTS, DIRECTORY_UNUSABLE
 */
export async function createMasterKey(path: string): Promise<void> {
  try {
    await writeFile(path, `${generateMasterKey()}\n`, { mode: 0o600, flag: 'wx' });
  } catch (cause) {
    const exists = (cause as NodeJS.ErrnoException).code === 'EEXIST';
    throw new HoldfastError(
      exists ? 'TARGET_EXISTS' : 'DIRECTORY_UNUSABLE',
      exists
        ? `${path} is there already, and is left as it is.`
        : `Cannot write ${path}: ${(cause as Error).message}`,
      { cause },
    );
  }
}

/** The master key in a file. @throws HoldfastError INVALID_REQUEST when it cannot be read */
export async function readMasterKeyFile(path: string): Promise<Secret> {
  try {
    return new Secret((await readFile(path, 'utf8')).trim());
  } catch (cause) {
    throw new HoldfastError('INVALID_REQUEST', `Cannot read the master key: ${(cause as Error).message}`, {
      cause,
    });
  }
}
