import { readdir, readFile, realpath, stat } from 'node:fs/promises';
import { dirname, isAbsolute, join } from 'node:path';
import { run } from './run.ts';

/** Whether reading in the idle I/O class means anything. */
export interface IdleIo {
  readonly effective: boolean;
  /** On what it holds, or why it has no effect, in words. */
  readonly reason: string;
}

/**
 * Whether a process reads in the idle class (ionice(1)) and the disks under all these files or block devices heed it.
 * That is so with the scheduler bfq, and with mq-deadline since it knows classes at all.
 *
 * @param sources absolute paths, or the names of volumes on the network
 */
export async function idleIoEffect(pid: number, sources: readonly string[]): Promise<IdleIo> {
  const no = (reason: string): IdleIo => ({ effective: false, reason });
  const { stdout } = await run('ionice', ['--pid', String(pid)], { deadlineMs: 5_000 });
  if (stdout.trim() !== 'idle') return no(`The class could not be set: it is ${stdout.trim() || 'unknown'}.`);
  const disks = new Map<string, string>();
  for (const source of sources) {
    const found = await disksUnder(source);
    if (found.length === 0)
      return no(`${source} does not lie on a disk of this host, so its reads have no class.`);
    for (const disk of found) disks.set(disk, await scheduler(disk));
  }
  for (const [disk, name] of disks) {
    if (name === 'bfq' || (name === 'mq-deadline' && (await knowsClasses(disk)))) continue;
    return no(`The scheduler of disk ${disk} (${name}) ignores I/O classes.`);
  }
  const each = [...disks].map(([disk, name]) => `${disk} (${name})`);
  return { effective: true, reason: `The images were read in the idle class from ${each.join(', ')}.` };
}

/** The names of the disks of this host under a file or a block device, as in /sys/block; none for a network. */
async function disksUnder(path: string): Promise<readonly string[]> {
  if (!isAbsolute(path)) return [];
  const found = await stat(path);
  const device = found.isBlockDevice() ? found.rdev : found.dev;
  // As in glibc's gnu_dev_major and gnu_dev_minor, for the numbers that Linux gives out.
  const major = (device >>> 8) & 0xfff;
  const minor = (device & 0xff) | ((device >>> 12) & 0xfff00);
  const directory = await realpath(`/sys/dev/block/${major}:${minor}`).catch(() => undefined);
  if (directory === undefined) return [];
  return leaves(await diskOf(directory));
}

/** The directory of a disk, of one of its partitions or of the disk itself (/sys/devices/…). */
async function diskOf(directory: string): Promise<string> {
  const isPartition = await stat(join(directory, 'partition')).catch(() => undefined);
  return isPartition === undefined ? directory : dirname(directory);
}

/** A device mapper or RAID has no scheduler of its own: the disks under it have. */
async function leaves(directory: string): Promise<readonly string[]> {
  const slaves = await readdir(join(directory, 'slaves')).catch(() => []);
  if (slaves.length === 0) return [directory.split('/').at(-1) ?? ''];
  const below = await Promise.all(
    slaves.map(async (name) => leaves(await diskOf(await realpath(join(directory, 'slaves', name))))),
  );
  return below.flat();
}

async function scheduler(disk: string): Promise<string> {
  const text = await readFile(`/sys/block/${disk}/queue/scheduler`, 'utf8').catch(() => '');
  return /\[([^\]]+)\]/.exec(text)?.[1] ?? 'none';
}

/** Linux before 5.14 has an mq-deadline without classes, and without this attribute. */
async function knowsClasses(disk: string): Promise<boolean> {
  const attribute = `/sys/block/${disk}/queue/iosched/prio_aging_expire`;
  return (await stat(attribute).catch(() => undefined)) !== undefined;
}
