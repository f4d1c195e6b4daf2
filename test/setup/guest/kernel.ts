import { readdir, readFile } from 'node:fs/promises';
import path from 'node:path';
import { execa } from 'execa';
import { dependenciesOf } from '../apt.ts';
import { unpackedPackages } from './unpacked.ts';

/** The unpacked kernel package that all guests boot. */
export async function guestKernel(): Promise<string> {
  return unpackedPackages('guest-kernel', async () => [await kernelPackage()], listModules);
}

/** The newest concrete kernel package behind Debian's `linux-image-cloud-amd64`: small, and all of virtio. */
async function kernelPackage(): Promise<string> {
  const name = (await dependenciesOf('linux-image-cloud-amd64')).find((each) =>
    each.startsWith('linux-image-'),
  );
  if (name === undefined) {
    throw new Error(
      'apt knows no linux-image-cloud-amd64. The lab needs Debian: run apt-get update, then try again.',
    );
  }
  return name;
}

/** The kernel file in an unpacked kernel package. */
export async function vmlinuz(unpacked: string): Promise<string> {
  const boot = path.join(unpacked, 'boot');
  const name = (await readdir(boot)).find((each) => each.startsWith('vmlinuz-'));
  if (name === undefined) throw new Error(`No kernel in ${boot}. Remove ${unpacked} and run make setup.`);
  return path.join(boot, name);
}

/** Writes modules.dep into an unpacked kernel package: Debian leaves that to the package's postinst. */
async function listModules(unpacked: string): Promise<void> {
  await execa('busybox', ['depmod', '-b', unpacked, path.basename(await moduleRoot(unpacked))], {
    timeout: 60_000,
  });
}

/** The files to load, in this order, for the named modules with all they need; built-in ones are left out. */
export async function moduleFiles(unpacked: string, names: readonly string[]): Promise<string[]> {
  const root = await moduleRoot(unpacked);
  const dependencies = new Map<string, string[]>();
  for (const line of (await readFile(path.join(root, 'modules.dep'), 'utf8')).split('\n')) {
    const [file, rest] = line.split(':');
    if (file) dependencies.set(file, rest?.split(' ').filter(Boolean) ?? []);
  }
  const builtIn = (await readFile(path.join(root, 'modules.builtin'), 'utf8')).split('\n');

  const wanted = (list: readonly string[], name: string) => list.find((file) => file.endsWith(`/${name}.ko`));
  const ordered = new Set<string>();
  const add = (file: string): void => {
    for (const each of dependencies.get(file) ?? []) add(each);
    ordered.add(path.join(root, file));
  };
  for (const name of names) {
    const file = wanted([...dependencies.keys()], name);
    if (file !== undefined) add(file);
    else if (wanted(builtIn, name) === undefined)
      throw new Error(`The guest's kernel has no module ${name} in ${root}.`);
  }
  return [...ordered];
}

async function moduleRoot(unpacked: string): Promise<string> {
  const modules = path.join(unpacked, 'lib/modules');
  const [version] = await readdir(modules);
  if (version === undefined)
    throw new Error(`No modules in ${modules}. Remove ${unpacked} and run make setup.`);
  return path.join(modules, version);
}
