import { symlink } from 'node:fs/promises';
import path from 'node:path';
import { postgresRoot } from '../setup/postgres.ts';
import { createLabDirectory, removeLabDirectory } from './directory.ts';
import { startSupervisor } from './supervisor.ts';
import { sweepLabs } from './sweep.ts';

/** A PostgreSQL 15 cluster of its own, which is asked on a unix socket by the superuser `postgres` without a password. */
export interface Postgres extends AsyncDisposable {
  /** The URL of a database in it, which need not be there. */
  url(database: string): string;
}

/** Starts a cluster. It ends with this process, however that ends. Needs root. */
export async function startPostgres(): Promise<Postgres> {
  await sweepLabs();
  const directory = await createLabDirectory();
  try {
    await symlink(await postgresRoot(), path.join(directory, 'root'));
    const supervisor = await startSupervisor(directory, {
      script: 'postgres.sh',
      what: 'PostgreSQL answers',
    });
    const sockets = encodeURIComponent(path.join(directory, 'run'));
    return {
      url: (database) => `postgresql://postgres@/${database}?host=${sockets}`,
      [Symbol.asyncDispose]: async () => {
        await supervisor.end();
        await removeLabDirectory(directory);
      },
    };
  } catch (error) {
    await removeLabDirectory(directory);
    throw error;
  }
}
