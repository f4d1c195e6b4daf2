import { stat } from 'node:fs/promises';

/** What tells a file from all others on this host, whatever its name; undefined when it is not there. */
export async function inodeOf(path: string): Promise<string | undefined> {
  const found = await stat(path, { bigint: true }).catch(() => undefined);
  return found && `${found.dev}:${found.ino}`;
}
