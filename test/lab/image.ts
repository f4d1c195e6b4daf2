import { mkdtemp, open, rename, rm } from 'node:fs/promises';
import path from 'node:path';
import { execa } from 'execa';
import { bytesOf } from './bytes.ts';
import { addMarker, fileSystemImage } from './filesystem.ts';
import { GiB, MiB, type DiskContent } from './spec.ts';

export interface ImageOptions {
  readonly format: 'qcow2' | 'raw';
  readonly content: DiskContent;
  /** Left out: 64 MiB, or for `files` a disk with as much room again. */
  readonly sizeBytes?: number | undefined;
}

/** Makes the image file `file`, which must not be there. Returns its virtual size in bytes. */
export async function buildImage(file: string, options: ImageOptions): Promise<number> {
  const { content, format } = options;
  const sizeBytes = options.sizeBytes ?? defaultSize(content);
  // Beside the file, for the rename; with a plain name, since debugfs reads meaning into the names it is given.
  const workshop = await mkdtemp(path.join(path.dirname(file), 'building-'));
  const raw = path.join(workshop, 'raw');
  try {
    if (content.kind === 'files') {
      await copySparse(await fileSystemImage(content.fileBytes ?? 64 * MiB, sizeBytes), raw);
      if (content.marker !== undefined) await addMarker(raw, content.marker);
    } else {
      await writeBytes(raw, sizeBytes, content);
    }
    await rename(format === 'raw' ? raw : await qcow2From(raw), file);
  } finally {
    await rm(workshop, { recursive: true, force: true });
  }
  return sizeBytes;
}

function defaultSize(content: DiskContent): number {
  if (content.kind !== 'files') return 64 * MiB;
  const fileBytes = content.fileBytes ?? 64 * MiB;
  return Math.ceil((fileBytes * 1.5) / (256 * MiB)) * 256 * MiB + (fileBytes >= GiB ? GiB : 0);
}

async function writeBytes(file: string, sizeBytes: number, content: DiskContent): Promise<void> {
  const handle = await open(file, 'wx');
  try {
    await handle.truncate(sizeBytes);
    for (const { position, bytes } of bytesOf(content, sizeBytes))
      await handle.write(bytes, 0, bytes.length, position);
  } finally {
    await handle.close();
  }
}

async function copySparse(from: string, to: string): Promise<void> {
  await execa('cp', ['--sparse=always', '--', from, to], { timeout: 10 * 60_000 });
}

async function qcow2From(raw: string): Promise<string> {
  const qcow2 = `${raw}.qcow2`;
  await execa('qemu-img', ['convert', '-f', 'raw', '-O', 'qcow2', '-W', raw, qcow2], {
    timeout: 10 * 60_000,
  });
  return qcow2;
}
