import { readFile } from 'node:fs/promises';
import { run } from './run.ts';

/** A file system as a process sees it at a path. */
export interface Mount {
  /** Major and minor number of its device, such as `0:44`. */
  readonly device: string;
  readonly type: string;
}

const UNMOUNT_DEADLINE_MS = 5_000;

/**
 * What is mounted at exactly this path, as a process sees it; undefined when nothing is. Asks the kernel and not the
 * file system, which may hang (proc(5), /proc/pid/mountinfo).
 */
export async function mountAt(path: string, pid: number | 'self' = 'self'): Promise<Mount | undefined> {
  const lines = (await readFile(`/proc/${pid}/mountinfo`, 'utf8')).split('\n');
  for (const line of lines.reverse()) {
    const [before = '', after = ''] = line.split(' - ');
    const fields = before.split(' ');
    const point = (fields[4] ?? '').replaceAll(/\\(\d{3})/g, (_, octal: string) =>
      String.fromCharCode(parseInt(octal, 8)),
    );
    // Its octets are those of UTF-8.
    if (Buffer.from(point, 'latin1').toString('utf8') === path || point === path)
      return { device: fields[2] ?? '', type: after.split(' ')[0] ?? '' };
  }
  return undefined;
}

/** Unmounts what is mounted at a path, though it hangs or is in use: whatever waits for it fails at once. */
export async function forceUnmount(path: string): Promise<void> {
  while ((await mountAt(path)) !== undefined) {
    // Without --no-canonicalize it would ask the file system that hangs.
    const args = ['--force', '--lazy', '--no-canonicalize', path];
    const { exitCode, stderr } = await run('umount', args, { deadlineMs: UNMOUNT_DEADLINE_MS });
    if (exitCode !== 0 && (await mountAt(path)) !== undefined)
      throw new Error(`umount ${path}: ${stderr.trim()}`);
  }
}
