import { readFile } from 'node:fs/promises';
import { HoldfastError } from '@holdfast/common/errors.ts';
import { Secret } from '@holdfast/common/secret.ts';

/**
 * The URL of a PostgreSQL database from a file, since it may hold a password, or from the environment; undefined when
 * neither is given.
 *
 * @throws HoldfastError INVALID_REQUEST when the file cannot be read or is empty
 */
export async function readDatabaseUrl(sources: {
  readonly file: string | undefined;
  readonly text: string | undefined;
}): Promise<Secret | undefined> {
  if (sources.file === undefined) return sources.text ? new Secret(sources.text.trim()) : undefined;
  let text: string;
  try {
    text = (await readFile(sources.file, 'utf8')).trim();
  } catch (cause) {
    const { message } = cause as Error;
    throw new HoldfastError('INVALID_REQUEST', `Cannot read the URL of the database: ${message}`, { cause });
  }
  if (text === '') throw new HoldfastError('INVALID_REQUEST', `${sources.file} holds no URL of a database.`);
  return new Secret(text);
}
