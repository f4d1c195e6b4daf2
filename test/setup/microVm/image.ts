import path from 'node:path';
import type { GuestImage } from '../guest/image.ts';
import { initramfs } from '../guest/initramfs.ts';
import { guestKernel, vmlinuz } from '../guest/kernel.ts';

/**
 * All are loaded at the start: the micro-VM has no modules to look for later. The last two lines are what cifs asks the
 * kernel's crypto for by name, so that no dependency lists it.
 */
const MODULES = [
  ...['virtio_pci', 'virtio_blk', 'virtio_net', 'virtio_console', 'virtiofs', 'overlay', 'ext4', 'loop'],
  ...['fuse', 'nfsv4', 'cifs', 'nls_utf8'],
  ...['cmac', 'hmac', 'ecb', 'ccm', 'gcm', 'ctr', 'ghash-generic', 'aes_generic'],
  ...['md4', 'md5', 'sha256_generic', 'sha512_generic'],
];

/** The kernel and initramfs of the lab's micro-VM; built on first use, later only looked up. */
export async function microVmImage(): Promise<GuestImage> {
  const kernel = await guestKernel();
  const initrd = await initramfs({
    name: 'micro-vm',
    kernel,
    modules: MODULES,
    scripts: {
      init: script('init.sh'),
      'start.sh': script('start.sh'),
      'lab.service': script('lab.service'),
    },
  });
  return { kernel: await vmlinuz(kernel), initrd };
}

function script(name: string): string {
  return path.join(import.meta.dirname, name);
}
