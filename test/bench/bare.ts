import { rm, stat, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { execa } from 'execa';
import { silentLogger } from '@holdfast/common/logger.ts';
import { Secret } from '@holdfast/common/secret.ts';
import { KEY_SECRET_ID, targetNodes } from '@holdfast/agent/qemu/layout.ts';
import { startStorageDaemon } from '@holdfast/agent/qemu/storageDaemon.ts';
import { closeTarget, openTarget } from '@holdfast/agent/stages/openTarget.ts';
import { withPull } from './backupJob.ts';
import type { Bed } from './bed.ts';
import { measure, type Cost } from './measure.ts';

/** `qemu-img convert -n -c -W -m 16` from the same export into the same kind of target, and nothing around it. */
export async function bare(bed: Bed): Promise<Cost> {
  const target = path.join(bed.device.directory, 'bare.luks');
  const cost = await measure(bed.device, async () => {
    await makeTarget(bed, target);
    await withPull(bed, async (socket) => {
      await execa('qemu-img', [
        ...['convert', '-n', '-c', '-W', '-m', '16', '--object', `secret,id=key,file=${bed.keyFile}`],
        ...['--image-opts', `driver=nbd,server.type=unix,server.path=${socket},export=vda`],
        '--target-image-opts',
        `driver=qcow2,file.driver=luks,file.key-secret=key,file.file.driver=file,file.file.filename=${target}`,
      ]);
    });
    return (await stat(target)).blocks * 512;
  });
  await rm(target);
  return cost;
}

/** Only qemu-storage-daemon can make a qcow2 inside LUKS. */
async function makeTarget(bed: Bed, file: string): Promise<void> {
  await writeFile(file, '', { flag: 'wx' });
  const { signal } = new AbortController();
  const daemon = await startStorageDaemon(bed.workshop, silentLogger, signal);
  try {
    await daemon.addSecret(KEY_SECRET_ID, new Secret(bed.key));
    const target = {
      nodes: targetNodes('vda'),
      layout: { compression: 'zstd', encrypted: true },
      virtualSizeBytes: bed.running.disks[0]?.sizeBytes ?? 0,
      path: file,
    } as const;
    await openTarget(daemon, target, signal);
    await closeTarget(daemon, target);
  } finally {
    await daemon.quit();
  }
}
