import { writeFile } from 'node:fs/promises';
import path from 'node:path';
import { until } from '../lab/deadline.ts';
import type { Bed } from './bed.ts';

const MINUTE = 60_000;

/** libvirt's own copy to a file, as a script does it. Returns when all of the disk is there. */
export async function pushTo(bed: Bed, target: string): Promise<void> {
  await begin(
    bed,
    `<domainbackup mode='push'><disks>
      <disk name='vda' type='file' backup='yes'><target file='${target}'/><driver type='qcow2'/></disk>
    </disks></domainbackup>`,
  );
  await until('the push backup ends', 5 * MINUTE, async () => {
    const info = await bed.lab.virsh(['domjobinfo', bed.running.uuid]);
    return /Job type:\s+None/.test(info) ? true : undefined;
  });
}

/** Lets QEMU offer the disk as it is now, as export vda on the socket, while `use` runs. */
export async function withPull(bed: Bed, use: (socket: string) => Promise<void>): Promise<void> {
  const socket = path.join(bed.workshop, 'nbd.sock');
  const scratch = path.join(bed.workshop, 'scratch.qcow2');
  await begin(
    bed,
    `<domainbackup mode='pull'><server transport='unix' socket='${socket}'/><disks>
      <disk name='vda' type='file' backup='yes'><scratch file='${scratch}'/></disk>
    </disks></domainbackup>`,
  );
  try {
    await use(socket);
  } finally {
    await bed.lab.virsh(['domjobabort', bed.running.uuid]);
  }
}

async function begin(bed: Bed, xml: string): Promise<void> {
  const file = path.join(bed.workshop, 'backup.xml');
  await writeFile(file, xml);
  await bed.lab.virsh(['backup-begin', bed.running.uuid, file]);
}
