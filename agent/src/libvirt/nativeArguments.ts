import { rm, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import type { Virsh } from './virsh.ts';

/** Asks for nothing but what every domain has. */
const SMALLEST_DOMAIN =
  '<domain type="qemu"><name>holdfast</name><memory>1024</memory><os><type>hvm</type></os></domain>';

/**
 * The directory under which this libvirt keeps its domains' state, such as /var/lib/libvirt. libvirt has no call that
 * tells; but the key file of a domain, which it names in QEMU's arguments, lies in a directory of the domain in
 * `<state>/qemu` (or `<state>/lib`, for a user's own libvirt), and `<state>/swtpm` is beside that.
 *
 * @param directory a private one for a temporary file
 * @returns undefined when libvirt does not tell.
 */
export async function libvirtStateDirectory(virsh: Virsh, directory: string): Promise<string | undefined> {
  const file = join(directory, 'smallest-domain.xml');
  await writeFile(file, SMALLEST_DOMAIN, { mode: 0o600 });
  try {
    const native = await virsh.attempt(['domxml-to-native', 'qemu-argv', '--xml', file]);
    return native.exitCode === 0 ? stateDirectoryIn(native.stdout) : undefined;
  } finally {
    await rm(file, { force: true });
  }
}

/** The state directory that QEMU's arguments, as libvirt prints them, imply. */
export function stateDirectoryIn(native: string): string | undefined {
  const directory = domainDirectoryIn(native);
  return directory === undefined ? undefined : dirname(dirname(directory));
}

/** The directory in which libvirt keeps what a domain's QEMU needs while it runs, by QEMU's arguments. */
export function domainDirectoryIn(args: string): string | undefined {
  return /"id":"masterKey0"[^{}]*"file":"(?<directory>\/[^"\\]*\/domain-[^"/\\]*)\/master-key\.aes"/.exec(
    args,
  )?.groups?.['directory'];
}

/**
 * Where libvirt keeps, or will make, the UEFI variables of a domain whose XML does not say it: with
 * `<os firmware='efi'>` a stopped domain's does not.
 */
export async function nvramPathOf(virsh: Virsh, uuid: string): Promise<string | undefined> {
  const native = await virsh.attempt(['domxml-to-native', 'qemu-argv', '--domain', uuid]);
  return native.exitCode === 0 ? nvramPathIn(native.stdout) : undefined;
}

/** The file of UEFI variables in QEMU's arguments, as libvirt prints them. */
export function nvramPathIn(native: string): string | undefined {
  const text = /"filename":(?<name>"(?:[^"\\]|\\.)*"),"node-name":"libvirt-pflash1-storage"/.exec(native)
    ?.groups?.['name'];
  // The argument stands in a shell's quotes.
  return text === undefined ? undefined : (JSON.parse(text.replaceAll(`'\\''`, "'")) as string);
}
