import { readdir, stat } from 'node:fs/promises';
import path from 'node:path';
import type { User } from './user.ts';

/** What the demo reads of a backup, in the JSON that `holdfast --json show` prints. */
interface BackupPage {
  readonly manifest: {
    readonly disks: readonly { readonly dataBytes: string; readonly virtualSizeBytes: string }[];
    readonly stages: readonly {
      readonly stage: string;
      readonly elapsedMs?: string;
      readonly inputBytes?: string;
      readonly outputBytes?: string;
    }[];
  };
}

/** Prints the stages with time and bytes, and what the backup cost on the NAS. */
export async function report(user: User, backup: string, repository: string): Promise<void> {
  for await (const page of user.asks(['show', backup])) {
    const { manifest } = page as BackupPage;
    console.log(`\n${row('STAGE', 'TIME', 'IN', 'OUT')}`);
    for (const { stage, elapsedMs, inputBytes, outputBytes } of manifest.stages) {
      const seconds = `${(Number(elapsedMs ?? 0) / 1000).toFixed(1)} s`;
      console.log(row(stage, seconds, mib(inputBytes), mib(outputBytes)));
    }
    const sum = (field: 'dataBytes' | 'virtualSizeBytes') =>
      manifest.disks.reduce((so, disk) => so + Number(disk[field]), 0);
    const stored = await bytesBelow(repository);
    console.log(`
source          ${mib(sum('dataBytes'))} of data on ${manifest.disks.length} disks of ${mib(sum('virtualSizeBytes'))}
on the NAS      ${mib(stored)}
ratio           ${(sum('dataBytes') / stored).toFixed(2)}`);
    return;
  }
}

function row(stage: string, ...cells: readonly string[]): string {
  return stage.padEnd(10) + cells.map((cell) => cell.padStart(13)).join('');
}

function mib(bytes: string | number | undefined): string {
  const number = Number(bytes ?? 0);
  return number === 0 ? '-' : `${(number / 1024 / 1024).toFixed(1)} MiB`;
}

/** What the files below a directory take, in bytes as allocated. */
async function bytesBelow(directory: string): Promise<number> {
  const names = await readdir(directory, { recursive: true });
  const sizes = await Promise.all(names.map(async (name) => stat(path.join(directory, name))));
  return sizes.filter((info) => info.isFile()).reduce((sum, info) => sum + info.blocks * 512, 0);
}
