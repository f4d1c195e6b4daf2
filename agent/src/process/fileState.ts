import { run } from './run.ts';

const DEADLINE_MS = 10_000;

/**
 * What changes whenever a file is written to: inode, bytes, and the time of the last write in nanoseconds (inode(7)). A file
 * system that is shared with other hosts is asked anew, not what this host remembers of it (statx(2), AT_STATX_FORCE_SYNC).
 * In a process of its own, as a file system may hang.
 *
 * @returns undefined when it cannot be told
 */
export async function fileStateOf(path: string): Promise<string | undefined> {
  const args = ['--dereference', '--cached=never', '--format=%i:%s:%.9Y', '--', path];
  const result = await run('stat', args, { deadlineMs: DEADLINE_MS }).catch(() => undefined);
  return result?.exitCode === 0 ? result.stdout.trim() : undefined;
}
