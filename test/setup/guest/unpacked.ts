import { mkdir, mkdtemp, readdir, rm } from 'node:fs/promises';
import path from 'node:path';
import { execa } from 'execa';
import { downloadPackages } from '../apt.ts';
import { cached } from '../cache.ts';

/**
 * The cache directory `entry` with the files of Debian packages in it, not installed.
 * `packageNames` is asked only when they must be downloaded, so that a filled cache needs neither apt nor a network.
 * `finish` may add to the unpacked files before anyone else sees them.
 */
export async function unpackedPackages(
  entry: string,
  packageNames: () => Promise<readonly string[]>,
  finish?: (directory: string) => Promise<void>,
): Promise<string> {
  return cached(entry, async (target) => {
    const names = await packageNames();
    console.log(`Downloading ${names.join(' ')} for the lab`);
    await mkdir(target);
    const downloads = await mkdtemp(path.join(path.dirname(target), 'deb-'));
    await downloadPackages(names, downloads);
    for (const file of await readdir(downloads)) {
      await execa('dpkg', ['-x', path.join(downloads, file), target], { timeout: 120_000 });
    }
    await rm(downloads, { recursive: true });
    await finish?.(target);
  });
}
