import { initramfs } from './initramfs.ts';
import { kernelPackage, listModules, vmlinuz } from './kernel.ts';
import { unpackedPackage } from './unpacked.ts';

/** What a guest boots from, as absolute paths of files in the cache. */
export interface GuestImage {
  readonly kernel: string;
  readonly initrd: string;
}

/** The kernel and initramfs of the lab's guests; downloaded and built on first use, later only looked up. */
export async function guestImage(): Promise<GuestImage> {
  const kernel = await unpackedPackage('guest-kernel', kernelPackage, listModules);
  const agent = await unpackedPackage('guest-agent', () => Promise.resolve('qemu-guest-agent'));
  return { kernel: await vmlinuz(kernel), initrd: await initramfs(kernel, agent) };
}
