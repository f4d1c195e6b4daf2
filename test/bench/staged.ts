import { rm, stat } from 'node:fs/promises';
import path from 'node:path';
import { execa } from 'execa';
import { pushTo } from './backupJob.ts';
import type { Bed } from './bed.ts';
import { measure, type Cost } from './measure.ts';

const HOUR = 3_600_000;

/** `defaults`: QEMU's own. `tuned`: zstd, parallel, a quick key derivation, and a result that stays compressed. */
export type Tuning = 'defaults' | 'tuned';

/**
 * The way of scripts: a live copy to the repository, read back and compressed there, read back and encrypted there,
 * checked. With the defaults the encrypted image is not compressed any more: QEMU cannot do both in one qcow2.
 */
export async function staged(bed: Bed, tuning: Tuning): Promise<Cost> {
  const { device } = bed;
  const plain = path.join(device.directory, 'plain.qcow2');
  const compressed = path.join(device.directory, 'compressed.qcow2');
  const encrypted = path.join(device.directory, 'encrypted');
  const cost = await measure(device, async () => {
    await pushTo(bed, plain);
    await device.forget();
    await convert(['-O', 'qcow2', '-c', ...parallel(tuning), ...zstd(tuning), plain, compressed]);
    await rm(plain);
    await device.forget();
    await encrypt(bed, tuning, compressed, encrypted);
    await rm(compressed);
    await device.forget();
    const secret = ['--object', `secret,id=key,file=${bed.keyFile}`];
    await execa('qemu-img', ['check', '-q', ...secret, '--image-opts', imageOptions(tuning, encrypted)]);
    return (await stat(encrypted)).blocks * 512;
  });
  await rm(encrypted);
  return cost;
}

async function encrypt(bed: Bed, tuning: Tuning, from: string, to: string): Promise<void> {
  const secret = ['--object', `secret,id=key,file=${bed.keyFile}`];
  const options =
    tuning === 'defaults'
      ? ['-O', 'qcow2', '-o', 'encrypt.format=luks,encrypt.key-secret=key']
      : // The compressed qcow2 as it is, byte for byte, into a container.
        ['-f', 'raw', '-O', 'luks', '-o', 'key-secret=key,iter-time=10', ...parallel(tuning)];
  await convert([...secret, ...options, from, to]);
}

/** QEMU times its key derivation by CPU time, and gives up about once in nine times. */
async function convert(args: readonly string[]): Promise<void> {
  for (let attempt = 1; ; attempt++) {
    const { exitCode, stderr } = await execa('qemu-img', ['convert', ...args], {
      reject: false,
      timeout: HOUR,
    });
    if (exitCode === 0) return;
    if (attempt > 5 || !stderr.includes('Unable to get accurate CPU usage')) throw new Error(stderr);
  }
}

function parallel(tuning: Tuning): string[] {
  return tuning === 'tuned' ? ['-W', '-m', '16'] : [];
}

function zstd(tuning: Tuning): string[] {
  return tuning === 'tuned' ? ['-o', 'compression_type=zstd'] : [];
}

function imageOptions(tuning: Tuning, file: string): string {
  return tuning === 'defaults'
    ? `driver=qcow2,encrypt.format=luks,encrypt.key-secret=key,file.driver=file,file.filename=${file}`
    : `driver=qcow2,file.driver=luks,file.key-secret=key,file.file.driver=file,file.file.filename=${file}`;
}
