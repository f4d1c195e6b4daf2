import { chmod, mkdir, mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { execa } from 'execa';
import { killNaming, processesNaming } from '../harness/leftovers.ts';
import { until } from './deadline.ts';
import { identify, isAlive, type ProcessIdentity } from './process.ts';

/** Short, since a unix socket's path has room for 107 bytes; on disk, since images are large. */
const PARENT = '/var/tmp';
const PREFIX = 'holdfast-lab-';

/** Between mkdtemp and the owner's file a new lab looks like one without owner. */
const NEWBORN_MILLISECONDS = 60_000;

/** A new directory for a lab, which says that this process owns it. */
export async function createLabDirectory(): Promise<string> {
  const directory = await mkdtemp(path.join(PARENT, PREFIX));
  // QEMU may run as another user and has to pass through.
  await chmod(directory, 0o711);
  await writeFile(path.join(directory, 'owner.json'), JSON.stringify(await identify(process.pid)));
  for (const folder of ['etc', 'lib', 'cache', 'log', 'disks', 'run', 'console', 'shared']) {
    await mkdir(path.join(directory, folder));
    await chmod(path.join(directory, folder), folder === 'shared' ? 0o777 : 0o711);
  }
  return directory;
}

/** Writes down the process whose death ends everything in the lab, for a sweep after ours. */
export async function recordSupervisor(directory: string, pid: number): Promise<void> {
  await writeFile(path.join(directory, 'supervisor.json'), JSON.stringify(await identify(pid)));
}

/** Gives a process that was killed time to go. */
const KILLED_MILLISECONDS = 10_000;

/**
 * Kills what still names the directory, such as a FUSE client that waits half a minute for its servers after its umount,
 * takes away what is mounted below it, then the directory. Never follows a mount into someone's data.
 */
export async function removeLabDirectory(directory: string): Promise<void> {
  let left: string[] = [];
  await until(
    () => `The processes of ${directory} end; left are ${left.join('; ')}`,
    KILLED_MILLISECONDS,
    async () => {
      await killNaming(directory);
      left = (await processesNaming(directory)).map(({ argv }) => argv.join(' '));
      return left.length === 0 ? true : undefined;
    },
  );
  for (const mount of (await mountsBelow(directory)).toReversed()) {
    await execa('umount', ['-l', '--', mount], { timeout: 10_000 });
  }
  await rm(directory, { recursive: true, force: true, maxRetries: 5 });
}

/** Directories of labs whose owner is gone. */
export async function staleLabDirectories(): Promise<string[]> {
  const names = (await readdir(PARENT)).filter((name) => name.startsWith(PREFIX));
  const stale: string[] = [];
  for (const directory of names.map((name) => path.join(PARENT, name))) {
    const owner = await recorded(directory, 'owner.json');
    const alive = owner === undefined ? await isNewborn(directory) : await isAlive(owner);
    if (!alive) stale.push(directory);
  }
  return stale;
}

/** The supervisor of the lab in this directory, if one was recorded and still lives. */
export async function livingSupervisor(directory: string): Promise<ProcessIdentity | undefined> {
  const supervisor = await recorded(directory, 'supervisor.json');
  return supervisor !== undefined && (await isAlive(supervisor)) ? supervisor : undefined;
}

/** Mount points below a directory in this process's mount namespace, outermost first. */
export async function mountsBelow(directory: string): Promise<string[]> {
  const points = (await readFile('/proc/self/mountinfo', 'utf8'))
    .split('\n')
    .map((line) =>
      (line.split(' ')[4] ?? '').replaceAll(/\\(\d{3})/g, (_, octal: string) =>
        String.fromCharCode(parseInt(octal, 8)),
      ),
    );
  return points.filter((point) => point.startsWith(`${directory}/`)).toSorted();
}

async function recorded(directory: string, file: string): Promise<ProcessIdentity | undefined> {
  try {
    return JSON.parse(await readFile(path.join(directory, file), 'utf8')) as ProcessIdentity;
  } catch {
    return undefined;
  }
}

async function isNewborn(directory: string): Promise<boolean> {
  const info = await stat(directory).catch(() => undefined);
  return info !== undefined && Date.now() - info.mtimeMs < NEWBORN_MILLISECONDS;
}
