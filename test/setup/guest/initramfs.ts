import { createHash } from 'node:crypto';
import { chmod, copyFile, mkdir, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { execa } from 'execa';
import { cached } from '../cache.ts';
import { moduleFiles } from './kernel.ts';

/** What an initramfs is made of, beside busybox. */
export interface InitramfsSpec {
  /** A part of its name in the cache. */
  readonly name: string;
  /** An unpacked kernel package. */
  readonly kernel: string;
  /** Loaded by the init script, which finds their files in this order, dependencies first, in /modules/order. */
  readonly modules: readonly string[];
  /** Scripts on this machine, by their path in the image; one is `init`. */
  readonly scripts: Readonly<Record<string, string>>;
  /** Programs on this machine, by their path in the image; their shared libraries come along. */
  readonly programs?: Readonly<Record<string, string>>;
}

const FOLDERS = ['bin', 'dev', 'etc', 'proc', 'run', 'sbin', 'sys', 'tmp', 'var/run', 'var/log', 'modules'];

/** An initramfs file in the cache. Its name follows from what is in it, so that an edited script makes a new one. */
export async function initramfs(spec: InitramfsSpec): Promise<string> {
  const digest = createHash('sha256').update(JSON.stringify(spec.modules));
  for (const source of [import.meta.filename, ...Object.values(spec.scripts)]) {
    digest.update(await readFile(source));
  }
  return cached(`${spec.name}-${digest.digest('hex').slice(0, 16)}.cpio`, async (target) => {
    const root = path.join(path.dirname(target), 'root');
    await populate(root, spec);
    await pack(root, target);
    await rm(root, { recursive: true });
  });
}

async function populate(root: string, spec: InitramfsSpec): Promise<void> {
  const { kernel, scripts, programs = {} } = spec;
  const place = async (source: string, destination: string) => {
    const file = path.join(root, destination);
    await mkdir(path.dirname(file), { recursive: true });
    await copyFile(source, file);
    await chmod(file, 0o755);
  };
  for (const folder of FOLDERS) await mkdir(path.join(root, folder), { recursive: true });
  await place('/bin/busybox', 'bin/busybox');
  await symlink('busybox', path.join(root, 'bin/sh'));
  for (const [destination, source] of Object.entries(scripts)) await place(source, destination);

  const modules = await moduleFiles(kernel, spec.modules);
  for (const file of modules) await place(file, `modules/${path.basename(file)}`);
  await writeFile(
    path.join(root, 'modules/order'),
    modules.map((file) => `${path.basename(file)}\n`).join(''),
  );

  for (const [destination, source] of Object.entries(programs)) {
    await place(source, destination);
    for (const library of await librariesOf(source)) await place(library, library);
  }
}

/** The shared libraries of a program, as absolute paths on this machine; the guest has them at the same paths. */
async function librariesOf(program: string): Promise<string[]> {
  const { stdout } = await execa('ldd', [program], { timeout: 10_000 });
  const absent = [...stdout.matchAll(/^\s*(\S+) => not found/gm)].map((match) => match[1]);
  if (absent.length > 0) {
    throw new Error(
      `${program} needs ${absent.join(', ')}. Install libglib2.0-0 libnuma1 libudev1 liburing2.`,
    );
  }
  return [...stdout.matchAll(/(?:=> |^\s*)(\/\S+) \(0x/gm)].map((match) => match[1] ?? '');
}

/** Uncompressed: an emulated CPU takes longer to unpack it than QEMU does to load it. */
async function pack(root: string, target: string): Promise<void> {
  const names = (await readdir(root, { recursive: true })).toSorted();
  await execa('busybox', ['cpio', '-o', '-H', 'newc', '-F', target], {
    cwd: root,
    input: names.map((name) => `${name}\n`).join(''),
    timeout: 60_000,
  });
}
