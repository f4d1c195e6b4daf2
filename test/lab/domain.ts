import type { GuestImage } from '../setup/guest/image.ts';
import type { DiskSpec, GuestDisk, GuestSpec } from './spec.ts';
import { escapeXml } from './xml.ts';

export interface DomainParts {
  readonly spec: GuestSpec;
  readonly name: string;
  readonly uuid: string;
  readonly image: GuestImage;
  readonly consoleLog: string;
  /** One for each of `spec.disks`, in their order. */
  readonly disks: readonly GuestDisk[];
}

/** Debian's OVMF. */
const UEFI = `<loader readonly='yes' type='pflash'>/usr/share/OVMF/OVMF_CODE_4M.fd</loader>
    <nvram template='/usr/share/OVMF/OVMF_VARS_4M.fd'/>`;

/** The domain XML of a guest. `pc` and not `q35`, because it has a floppy controller and IDE. */
export function domainXml({ spec, name, uuid, image, consoleLog, disks }: DomainParts): string {
  const agent = spec.agent ?? true;
  const parameters = [
    ...['console=ttyS0', 'quiet', 'panic=-1'],
    `holdfast.agent=${agent ? 1 : 0}`,
    `holdfast.writer=${spec.writerMiBPerSecond ?? 0}`,
  ];
  return `<domain type='qemu'>
  <name>${escapeXml(name)}</name>
  <uuid>${uuid}</uuid>
  <memory unit='MiB'>${spec.memoryMiB ?? 256}</memory>
  <vcpu>1</vcpu>
  <os>
    <type arch='x86_64' machine='pc'>hvm</type>
    ${spec.firmware === 'uefi' ? UEFI : ''}
    <kernel>${escapeXml(image.kernel)}</kernel>
    <initrd>${escapeXml(image.initrd)}</initrd>
    <cmdline>${parameters.join(' ')}</cmdline>
  </os>
  <features><acpi/></features>
  <on_reboot>restart</on_reboot>
  <on_crash>destroy</on_crash>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
${spec.disks.map((disk, index) => diskXml(disk, disks[index])).join('\n')}
    <controller type='scsi' model='virtio-scsi'/>
    <controller type='usb' model='none'/>
    <memballoon model='none'/>
    <serial type='file'><source path='${escapeXml(consoleLog)}'/></serial>
    ${agent ? "<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>" : ''}
    ${spec.extraDevicesXml ?? ''}
  </devices>
</domain>
`;
}

function diskXml(spec: DiskSpec, disk: GuestDisk | undefined): string {
  const device = spec.device ?? 'disk';
  const source = disk?.path === undefined ? '' : `<source file='${escapeXml(disk.path)}'/>`;
  const flags = [
    spec.readOnly || device === 'cdrom' ? '<readonly/>' : '',
    spec.transient ? '<transient/>' : '',
    spec.shareable ? '<shareable/>' : '',
  ];
  return `    <disk type='file' device='${device}'>
      <driver name='qemu' type='${disk?.format ?? 'raw'}'/>
      ${source}<target dev='${escapeXml(spec.target)}' bus='${busOf(spec.target)}'/>${flags.join('')}
    </disk>`;
}

function busOf(target: string): string {
  const buses: Record<string, string> = { vd: 'virtio', sd: 'scsi', hd: 'ide', fd: 'fdc' };
  const bus = buses[target.slice(0, 2)];
  if (bus === undefined) throw new Error(`Disk target ${target}: use vd?, sd?, hd? or fd?.`);
  return bus;
}
