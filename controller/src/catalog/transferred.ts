import type { Manifest } from '@holdfast/proto/holdfast/v1/manifest.ts';

/** The stages that write to the repository; the last of them that ran knows what was written. */
const WRITING_STAGES: readonly string[] = ['encrypt', 'convert'];

/** Bytes that QEMU wrote to the repository for a backup's images. Older manifests have them by stage only. */
export function transferredBytesOf({ disks, stages }: Pick<Manifest, 'disks' | 'stages'>): bigint {
  const ofDisks = disks.reduce((sum, disk) => sum + disk.transferredBytes, 0n);
  if (ofDisks > 0n) return ofDisks;
  const written = WRITING_STAGES.map((name) => stages.find((each) => each.stage === name));
  return written.find((each) => each !== undefined)?.outputBytes ?? 0n;
}
