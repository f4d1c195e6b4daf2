import { readFile } from 'node:fs/promises';
import type { Device } from './device.ts';

/** What one run cost. */
export interface Cost {
  readonly seconds: number;
  /** Of the whole machine: QEMU, its daemons, the file system and the kernel's writers. */
  readonly cpuSeconds: number;
  readonly readBytes: number;
  readonly writtenBytes: number;
  /** What is left on the repository. */
  readonly finalBytes: number;
}

const TICKS_PER_SECOND = 100;

/** Runs `work`, which returns the size of what it made, with cold caches, until all of it is on the device. */
export async function measure(device: Device, work: () => Promise<number>): Promise<Cost> {
  await device.forget();
  const before = await device.counters();
  const busyBefore = await busySeconds();
  const started = performance.now();
  const finalBytes = await work();
  const after = await device.counters();
  return {
    seconds: (performance.now() - started) / 1000,
    cpuSeconds: (await busySeconds()) - busyBefore,
    readBytes: after.readBytes - before.readBytes,
    writtenBytes: after.writtenBytes - before.writtenBytes,
    finalBytes,
  };
}

/** user, nice, system, irq and softirq; not idle and iowait (proc(5)). */
async function busySeconds(): Promise<number> {
  const [line = ''] = (await readFile('/proc/stat', 'utf8')).split('\n');
  const [user = 0, nice = 0, system = 0, , , irq = 0, soft = 0] = line
    .trim()
    .split(/\s+/)
    .slice(1)
    .map(Number);
  return (user + nice + system + irq + soft) / TICKS_PER_SECOND;
}

export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = Math.floor(sorted.length / 2);
  const upper = sorted[middle] ?? NaN;
  return sorted.length % 2 === 1 ? upper : (upper + (sorted[middle - 1] ?? NaN)) / 2;
}
