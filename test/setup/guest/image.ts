import path from 'node:path';
import { initramfs } from './initramfs.ts';
import { guestKernel, vmlinuz } from './kernel.ts';
import { unpackedPackages } from './unpacked.ts';

/** What a guest boots from, as absolute paths of files in the cache. */
export interface GuestImage {
  readonly kernel: string;
  readonly initrd: string;
}

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

/** The kernel and initramfs of the lab's guests; downloaded and built on first use, later only looked up. */
export async function guestImage(): Promise<GuestImage> {
  const kernel = await guestKernel();
  const agent = await unpackedPackages('guest-agent', () => Promise.resolve(['qemu-guest-agent']));
  const initrd = await initramfs({
    name: 'initramfs',
    kernel,
    modules: MODULES,
    scripts: {
      init: script('init.sh'),
      'sbin/shutdown': script('shutdown.sh'),
      'sbin/writer': script('writer.sh'),
    },
    programs: { 'sbin/qemu-ga': path.join(agent, 'usr/sbin/qemu-ga') },
  });
  return { kernel: await vmlinuz(kernel), initrd };
}

function script(name: string): string {
  return path.join(import.meta.dirname, name);
}
