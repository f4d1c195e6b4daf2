import type { Virsh } from '../libvirt/virsh.ts';
import { run } from '../process/run.ts';

/** The versions of the tools that touch the data, by name. */
export async function toolVersions(virsh: Virsh): Promise<Readonly<Record<'qemu' | 'libvirt', string>>> {
  const [qemu, libvirt] = await Promise.all([
    run('qemu-storage-daemon', ['--version'], { deadlineMs: 10_000 }),
    virsh.command(['version', '--daemon']),
  ]);
  return {
    qemu: /version (\S+)/.exec(qemu.stdout)?.[1] ?? '',
    libvirt: /Running against daemon: (\S+)/.exec(libvirt)?.[1] ?? '',
  };
}
