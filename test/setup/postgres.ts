import { access } from 'node:fs/promises';
import path from 'node:path';
import { additionsFor } from './apt.ts';
import { unpackedPackages } from './guest/unpacked.ts';

/** Where Debian 12 puts the server's programs, below a root. */
export const POSTGRES_BIN = 'usr/lib/postgresql/15/bin';

/**
 * The directory below which PostgreSQL's programs lie: `/` where they are installed, or else the cache. Not installed by
 * us, since that would make and start a database of the machine's.
 */
export async function postgresRoot(): Promise<string> {
  const isInstalled = await access(path.join('/', POSTGRES_BIN, 'postgres')).then(
    () => true,
    () => false,
  );
  return isInstalled ? '/' : unpackedPackages('postgresql-15', () => additionsFor(['postgresql-15']));
}
