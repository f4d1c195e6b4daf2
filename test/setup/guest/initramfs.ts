import { createHash } from 'node:crypto';
import { chmod, copyFile, mkdir, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { execa } from 'execa';
import { cached } from '../cache.ts';
import { moduleFiles } from './kernel.ts';

/** evdev and button are for the power button, that is for a shutdown without guest agent. */
const MODULES = [
  'virtio_pci',
  'virtio_blk',
  'virtio_scsi',
  'sd_mod',
  'virtio_console',
  'ext4',
  'button',
  'evdev',
];

/** What is copied from `guest/` into the image, and where to. */
const SCRIPTS = { 'init.sh': 'init', 'shutdown.sh': 'sbin/shutdown', 'writer.sh': 'sbin/writer' };

/**
 * The initramfs file for guests: busybox, the modules and qemu-ga with its libraries.
 * Its cache name follows from what is in it, so that an edited script makes a new image.
 */
export async function initramfs(kernel: string, agent: string): Promise<string> {
  const digest = createHash('sha256');
  for (const source of [import.meta.filename, ...Object.keys(SCRIPTS).map(script)]) {
    digest.update(await readFile(source));
  }
  return cached(`initramfs-${digest.digest('hex').slice(0, 16)}.cpio`, async (target) => {
    const root = path.join(path.dirname(target), 'root');
    await populate(root, kernel, agent);
    await pack(root, target);
    await rm(root, { recursive: true });
  });
}

async function populate(root: string, kernel: string, agent: string): Promise<void> {
  const place = async (source: string, destination: string) => {
    const file = path.join(root, destination);
    await mkdir(path.dirname(file), { recursive: true });
    await copyFile(source, file);
    await chmod(file, 0o755);
  };
  for (const folder of [
    'bin',
    'dev',
    'etc',
    'proc',
    'run',
    'sbin',
    'sys',
    'tmp',
    'var/run',
    'var/log',
    'data',
    'modules',
  ]) {
    await mkdir(path.join(root, folder), { recursive: true });
  }
  await place('/bin/busybox', 'bin/busybox');
  await symlink('busybox', path.join(root, 'bin/sh'));
  for (const [source, destination] of Object.entries(SCRIPTS)) await place(script(source), destination);

  const modules = await moduleFiles(kernel, MODULES);
  for (const file of modules) await place(file, `modules/${path.basename(file)}`);
  await writeFile(
    path.join(root, 'modules/order'),
    modules.map((file) => `${path.basename(file)}\n`).join(''),
  );

  const guestAgent = path.join(agent, 'usr/sbin/qemu-ga');
  await place(guestAgent, 'sbin/qemu-ga');
  for (const library of await librariesOf(guestAgent)) await place(library, library);
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

function script(name: string): string {
  return path.join(import.meta.dirname, name);
}
