import { succeeded } from '../harness/follow.ts';
import type { Bed } from './bed.ts';
import { measure, type Cost } from './measure.ts';

export interface OnePassOptions {
  /** With `qemu-img check` at the end. */
  readonly check: boolean;
  /** Those that a zone has by default when left out. */
  readonly digests?: 'none' | 'stored' | 'content';
}

/** Holdfast, as an orchestrator calls it: compressed and encrypted in one pass, from the call to the published backup. */
export async function onePass(bed: Bed, options: OnePassOptions): Promise<Cost> {
  const { client } = bed.holdfast;
  let backupId = '';
  const cost = await measure(bed.device, async () => {
    const followed = await client.takeBackup({
      zone: 'z1',
      domain: bed.running.name,
      settings: {
        'nas.backup.compression.enabled': 'true',
        'nas.backup.encryption.enabled': 'true',
        'nas.backup.integrity.check': String(options.check),
        'nas.backup.integrity.digests': options.digests ?? 'stored',
      },
    });
    backupId = succeeded(followed).backupId;
    return Number((await client.getBackup(backupId)).storedBytes);
  });
  succeeded(await client.deleteBackup(backupId));
  return cost;
}
