import { readFile, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { execa } from 'execa';
import type { Lab } from '../lab/lab.ts';

/** A file system on a block device of its own: its counters show what crosses the line to a NAS, caches or not. */
export interface Device {
  readonly directory: string;
  /** Bytes read from and written to it since it was made; writes that wait in memory are written out first. */
  counters(): Promise<Counters>;
  /** Writes out what waits in memory and forgets what was read, so that the next reader reads again. */
  forget(): Promise<void>;
}

export interface Counters {
  readonly readBytes: number;
  readonly writtenBytes: number;
}

/** In /sys/block/…/stat, whatever the device's own sector size (Documentation/block/stat.rst). */
const SECTOR_BYTES = 512;

/** Mounts a new ext4 over `directory`, for this process and in the lab. It ends with the lab. */
export async function mountDevice(lab: Lab, directory: string, sizeBytes: number): Promise<Device> {
  const image = path.join(lab.directory, 'repository.img');
  await execa('truncate', ['-s', String(sizeBytes), image]);
  // Without lazy initialisation, whose writes would be counted.
  const lazy = 'lazy_itable_init=0,lazy_journal_init=0';
  await execa('mke2fs', ['-q', '-t', 'ext4', '-E', lazy, image]);
  const { stdout: loop } = await execa('losetup', ['--find', '--show', image]);
  try {
    await execa('mount', [loop, directory]);
    const [program = '', ...rest] = lab.enter(['mount', loop, directory]);
    await execa(program, rest);
  } finally {
    // Takes effect with the last umount.
    await execa('losetup', ['--detach', loop]);
  }
  const sync = () => execa('sync', ['-f', directory]);
  return {
    directory,
    counters: async () => {
      await sync();
      const stat = await readFile(`/sys/block/${path.basename(loop)}/stat`, 'utf8');
      const fields = stat.trim().split(/\s+/).map(Number);
      return {
        readBytes: (fields[2] ?? NaN) * SECTOR_BYTES,
        writtenBytes: (fields[6] ?? NaN) * SECTOR_BYTES,
      };
    },
    forget: async () => {
      await execa('sync');
      await writeFile('/proc/sys/vm/drop_caches', '3');
    },
  };
}
