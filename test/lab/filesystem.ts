import { copyFile, mkdir, readdir, rm, stat, truncate, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { execa } from 'execa';
import { cached } from '../setup/cache.ts';
import { mark } from './bytes.ts';
import { beforeText, GiB, KiB, MiB } from './spec.ts';

const MINUTE = 60_000;

/** mke2fs takes as long for a file as for 2 MiB: with the smallest ones, 1 GiB would be 47000 files and 50 s of CPU. */
const SMALLEST_BYTES = 16 * KiB;

/** Where real files come from, in this order. */
const SOURCES = ['/usr/share', '/usr/lib', '/usr/bin', '/usr/sbin', '/usr/include', '/usr/src'];

/**
 * A raw image, in the cache, of an ext4 with at least `fileBytes` of this machine's files; not to be written to.
 * mke2fs fills it itself (`-d`), so nothing is mounted. Throws when the disk has too little room.
 */
export async function fileSystemImage(fileBytes: number, sizeBytes: number): Promise<string> {
  return cached(`files-3-${fileBytes}-${sizeBytes}.raw`, async (target) => {
    const tree = path.join(path.dirname(target), 'tree');
    await mkdir(path.join(tree, 'busy'), { recursive: true });
    await writeFile(path.join(tree, 'before.txt'), beforeText);
    if (fileBytes >= GiB) console.log(`Building a guest disk of ${fileBytes / GiB} GiB of files (once)`);
    // A small installation has less than what is asked for: then its files are there more than once.
    for (let copied = 0, round = 1; copied < fileBytes; round++) {
      const more = await copyFiles(path.join(tree, `files-${round}`), fileBytes - copied);
      if (more === 0) throw new Error(`There are no files in ${SOURCES.join(', ')}.`);
      copied += more;
    }
    await writeFile(target, '');
    await truncate(target, sizeBytes);
    await execa('mke2fs', ['-q', '-t', 'ext4', '-E', 'root_owner=0:0', '-d', tree, target], {
      timeout: 10 * MINUTE,
    });
    await rm(tree, { recursive: true });
  });
}

/** Adds /marker.bin to the ext4 in a raw image with a plain name. */
export async function addMarker(image: string, marker: string): Promise<void> {
  const source = `${image}.marker`;
  const bytes = Buffer.alloc(8 * MiB);
  mark(bytes, marker);
  await writeFile(source, bytes);
  try {
    const request = `write ${source} marker.bin`;
    const { stderr } = await execa('debugfs', ['-w', '-R', request, image], { timeout: MINUTE });
    // It exits with 0 whatever happens, and its banner goes to stderr too.
    if (stderr.trim().includes('\n'))
      throw new Error(`debugfs could not add /marker.bin to ${image}: ${stderr}`);
  } finally {
    await rm(source, { force: true });
  }
}

/** Copies regular files, in the order of their names, until `wanted` bytes are there; returns how many there are. */
async function copyFiles(tree: string, wanted: number): Promise<number> {
  let copied = 0;
  for (const source of SOURCES) {
    for await (const file of regularFiles(source)) {
      if (copied >= wanted) return copied;
      const { size } = await stat(file);
      if (size < SMALLEST_BYTES) continue;
      const target = path.join(tree, file);
      await mkdir(path.dirname(target), { recursive: true });
      await copyFile(file, target);
      copied += size;
    }
  }
  return copied;
}

async function* regularFiles(directory: string): AsyncGenerator<string> {
  const entries = await readdir(directory, { withFileTypes: true }).catch(() => []);
  for (const entry of entries.toSorted((a, b) => (a.name < b.name ? -1 : 1))) {
    const file = path.join(directory, entry.name);
    if (entry.isDirectory()) yield* regularFiles(file);
    else if (entry.isFile()) yield file;
  }
}
