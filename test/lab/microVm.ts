import { randomUUID } from 'node:crypto';
import { execa } from 'execa';
import { agentBundles, bundleEnvironment } from '../setup/microVm/bundles.ts';
import { microVmImage } from '../setup/microVm/image.ts';
import { labPrograms } from '../setup/programs.ts';
import type { Guest } from './guest.ts';
import type { Lab } from './lab.ts';
import { GiB, type GuestDisk } from './spec.ts';
import { escapeXml } from './xml.ts';

/**
 * A KVM host with a kernel of its own, in a guest: with NFS and CIFS clients, AppArmor and a confined libvirtd. Its
 * root file system is this machine's, so that this checkout, Node, QEMU and libvirt are there at the same paths; what
 * it writes is its own. The machine's loopback is 10.0.2.2 for it.
 */
export interface MicroVm extends Guest {
  /** `127.0.0.1:PORT` on this machine, which leads to AGENT_PORT on the micro-VM's own loopback. */
  readonly agentAddress: string;
  /** Runs a shell script and returns what it prints. Throws when it fails. Default deadline 60 s. */
  sh(script: string, milliseconds?: number): Promise<string>;
  /** Starts a program and goes on; its output is in `/var/log/<name>.log` of the micro-VM. Returns its pid there. */
  spawn(name: string, argv: readonly string[]): Promise<number>;
  /** What a spawned program has written. */
  logOf(name: string): Promise<string>;
}

/** The port that an agent inside listens on, on 127.0.0.1. */
export const AGENT_PORT = 7600;

/** The argv, for `MicroVm.spawn`, that runs a program of the agent of this checkout. */
export async function nodeArgv(source: string, args: readonly string[]): Promise<string[]> {
  return ['env', ...(await nodeEnvironment()), process.execPath, source, ...args];
}

/** `NAME=value`, with which programs of this checkout, and their children, start in time in a micro-VM. */
export async function nodeEnvironment(): Promise<string[]> {
  const environment = Object.entries(bundleEnvironment(await agentBundles()));
  return environment.map(([name, value]) => `${name}=${value}`);
}

export interface MicroVmOptions {
  /** What process 1 is: a script of the lab's, or the machine's systemd with none of the machine's services. */
  readonly init?: 'script' | 'systemd';
}

/** Boots a micro-VM as a guest of the lab, and ends with it. It is ready when this returns. */
export async function startMicroVm(lab: Lab, { init = 'script' }: MicroVmOptions = {}): Promise<MicroVm> {
  const own = MICRO_VMS_OWN.find((directory) => import.meta.dirname.startsWith(`${directory}/`));
  if (own !== undefined) throw new Error(`A micro-VM does not see this checkout: ${own} is its own there.`);
  const image = await microVmImage();
  const programs = await labPrograms();
  const disk = await lab.disk({ target: 'vda', format: 'raw', sizeBytes: 4 * GiB });
  await execa('mke2fs', ['-q', '-t', 'ext4', '-E', 'root_owner=0:0', disk.path ?? ''], { timeout: 60_000 });
  await showMachine(lab);
  const guest = await lab.define(microVmXml({ lab, image, programs, disk, init }));
  await guest.start();
  const agentAddress = await forward(lab, guest);
  await guest.waitReady(300_000);
  return {
    ...guest,
    agentAddress,
    sh: async (script, milliseconds = 60_000) => {
      // Asking takes from an emulated processor what the script could have.
      const { exitCode, stdout, stderr } = await guest.exec(['/bin/sh', '-ec', script], milliseconds, 400);
      if (exitCode !== 0)
        throw new Error(`In the micro-VM, exit code ${exitCode} of: ${script}\n${stdout}${stderr}`);
      return stdout;
    },
    spawn: async (name, argv) => {
      const started = await guest.command('guest-exec', {
        path: '/bin/sh',
        arg: ['-c', 'exec >>"/var/log/$0.log" 2>&1; exec "$@"', name, ...argv],
      });
      return (started as { pid: number }).pid;
    },
    logOf: (name) => guest.readFile(`/var/log/${name}.log`),
  };
}

/** What lies there on this machine is not seen in a micro-VM. */
const MICRO_VMS_OWN = ['/var', '/run', '/dev'];

/** Where the lab has a view of this machine's file systems; on its own tmpfs, far from all that the lab removes. */
const MACHINE = '/run/machine';

/** virtiofsd cannot share `/` itself, which is its own root: "pivot_root(., .): Device or resource busy". */
async function showMachine(lab: Lab): Promise<void> {
  const inside = async (...argv: string[]) => {
    const [program = '', ...args] = lab.enter(argv);
    await execa(program, args, { timeout: 30_000 });
  };
  await inside('mkdir', MACHINE);
  await inside('mount', '--rbind', '-o', 'ro', '/', MACHINE);
}

/** Makes a port of QEMU's user network; QEMU chooses which. */
async function forward(lab: Lab, guest: Guest): Promise<string> {
  const monitor = (command: string) => lab.virsh(['qemu-monitor-command', guest.uuid, '--hmp', command]);
  const answer = await monitor(`hostfwd_add tcp:127.0.0.1:0-10.0.2.15:${AGENT_PORT}`);
  const port = /127\.0\.0\.1\s+(\d+)\s+10\.0\.2\.15/.exec(await monitor('info usernet'))?.[1];
  if (port === undefined) throw new Error(`QEMU has made no port for the micro-VM. ${answer}`);
  return `127.0.0.1:${port}`;
}

interface Parts {
  readonly lab: Lab;
  readonly image: { readonly kernel: string; readonly initrd: string };
  readonly programs: string;
  readonly disk: GuestDisk;
  readonly init: 'script' | 'systemd';
}

/** An emulated clock is read by a call into QEMU, but for the TSC, which the kernel distrusts; nor is it attacked. */
const PARAMETERS = [
  ...['console=ttyS0', 'quiet', 'panic=-1', 'apparmor=1', 'security=apparmor'],
  ...['tsc=reliable', 'mitigations=off'],
];

/** Of this machine's fstab, services and identity nothing is to be seen. */
const SYSTEMD = [
  ...['holdfast.init=systemd', 'systemd.unit=lab.service', 'fstab=no', 'systemd.firstboot=no'],
  ...['systemd.machine_id=5e1f5e1f5e1f5e1f5e1f5e1f5e1f5e1f', 'systemd.show_status=no'],
  // It looks at every file of /var and /tmp, and makes what a booted machine has.
  'systemd.mask=systemd-tmpfiles-setup.service',
];

/** virtiofsd maps the guest's memory, so that has to be shared. */
function microVmXml({ lab, image, programs, disk, init }: Parts): string {
  const parameters = [...PARAMETERS, ...(init === 'systemd' ? SYSTEMD : [])];
  const uuid = randomUUID();
  const shared = (tag: string, directory: string) =>
    `<filesystem type='mount'><driver type='virtiofs'/><binary><cache mode='always'/></binary>
      <source dir='${escapeXml(directory)}'/><target dir='${tag}'/></filesystem>`;
  return `<domain type='qemu'>
  <name>micro-vm-${uuid.slice(0, 8)}</name>
  <uuid>${uuid}</uuid>
  <memory unit='MiB'>1536</memory>
  <memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>
  <vcpu>2</vcpu>
  <os>
    <type arch='x86_64' machine='pc'>hvm</type>
    <kernel>${escapeXml(image.kernel)}</kernel>
    <initrd>${escapeXml(image.initrd)}</initrd>
    <cmdline>${parameters.join(' ')}</cmdline>
  </os>
  <features><acpi/></features>
  <on_crash>destroy</on_crash>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw' cache='unsafe'/>
      <source file='${escapeXml(disk.path ?? '')}'/><target dev='vda' bus='virtio'/>
    </disk>
    ${shared('machine', MACHINE)}
    ${shared('programs', programs)}
    <interface type='user'><model type='virtio'/></interface>
    <controller type='usb' model='none'/>
    <memballoon model='none'/>
    <serial type='file'><source path='${escapeXml(`${lab.directory}/console/${uuid}.log`)}'/></serial>
    <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
  </devices>
</domain>
`;
}
