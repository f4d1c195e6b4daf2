import assert from 'node:assert/strict';
import { setTimeout as delay } from 'node:timers/promises';
import { succeeded } from '../../harness/follow.ts';
import { watchPulse, type Pulse } from '../support/pulse.ts';
import { REPOSITORY, ZONE, type Bed } from './bed.ts';

const HANG_MS = 6_000;
/** A guest on a busy machine may be held up by anything; a NAS that does it does it each time, and for its whole hang. */
const ATTEMPTS = 3;

/**
 * Throws unless the longest wait of the guest's writes during a pulled backup to a NAS that hangs in the middle is at most
 * twice that during a backup to a healthy one, both in this run.
 */
export async function hungNasHoldsUpNobody(bed: Bed): Promise<void> {
  const met: string[] = [];
  for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
    const healthy = await duringBackup(bed, () => Promise.resolve());
    const hung = await duringBackup(bed, async () => {
      bed.nas.hang();
      await delay(HANG_MS);
      await bed.nas.heal();
    });
    assert.equal(healthy.failed + hung.failed, 0);
    met.push(`${hung.stallMs} ms with a hung NAS, ${healthy.stallMs} ms with a healthy one`);
    if (hung.stallMs <= 2 * healthy.stallMs) {
      console.log(`      ${met.at(-1)}`);
      return;
    }
  }
  assert.fail(met.join('; '));
}

/** What the guest's writes met with during a slow backup, in the middle of which something is done. */
async function duringBackup({ holdfast, running }: Bed, act: () => Promise<void>): Promise<Pulse> {
  const { client } = holdfast;
  let acting: Promise<void> | undefined;
  const pulse = await watchPulse(running);
  const followed = await client.takeBackup(
    {
      ...{ zone: ZONE, domain: running.uuid, repository: REPOSITORY },
      settings: { 'nas.backup.transport': 'pull', 'nas.backup.bandwidth.limit.mbps': '4' },
    },
    async ({ event }) => {
      if (event?.$case !== 'stageProgress' || (event.value.figures?.processedBytes ?? 0n) === 0n) return;
      await (acting ??= act());
    },
  );
  const beat = await pulse.end();
  const { backupId } = succeeded(followed);
  succeeded(await client.deleteBackup(backupId));
  assert.ok(acting !== undefined && beat.writes > 10, `${beat.writes} writes`);
  return beat;
}
