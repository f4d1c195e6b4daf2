import { mkdir, mkdtemp, readdir, rm } from 'node:fs/promises';
import path from 'node:path';
import { execa } from 'execa';
import { downloadPackage } from '../apt.ts';
import { cached } from '../cache.ts';

/**
 * The cache directory `entry` with the files of a Debian package in it, not installed.
 * `packageName` is asked only when the package must be downloaded, so that a filled cache needs neither apt nor a network.
 * `finish` may add to the unpacked files before anyone else sees them.
 */
export async function unpackedPackage(
  entry: string,
  packageName: () => Promise<string>,
  finish?: (directory: string) => Promise<void>,
): Promise<string> {
  return cached(entry, async (target) => {
    const name = await packageName();
    console.log(`Downloading ${name} for the lab's guests`);
    await mkdir(target);
    const downloads = await mkdtemp(path.join(path.dirname(target), 'deb-'));
    await downloadPackage(name, downloads);
    for (const file of await readdir(downloads)) {
      await execa('dpkg', ['-x', path.join(downloads, file), target], { timeout: 120_000 });
    }
    await rm(downloads, { recursive: true });
    await finish?.(target);
  });
}
