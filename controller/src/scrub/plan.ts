import type { ProvableLevel } from '../catalog/proofs.ts';
import { booleanOf, integerOf, textOf, type ResolvedSettings } from '../zones/resolve.ts';
import { isWithin } from './window.ts';

const DAY = 86_400_000;

/** How the backups of a zone are scrubbed. */
export interface ScrubPlan {
  readonly enabled: boolean;
  /** Whether scrubs may begin now. */
  readonly open: boolean;
  readonly level: ProvableLevel;
  /** Backups that are unproved since before then are due. */
  readonly unprovedBefore: Date;
  /** 0 is all of it. */
  readonly samplePercent: number;
  readonly bandwidthLimitMibps: bigint;
}

export function scrubPlan(settings: ResolvedSettings, now: Date): ScrubPlan {
  const enabled = booleanOf(settings, 'nas.backup.scrub.enabled');
  const intervalMs = Number(integerOf(settings, 'nas.backup.scrub.interval.days')) * DAY;
  const percent = Number(integerOf(settings, 'nas.backup.scrub.sample.percent'));
  return {
    enabled,
    open: enabled && isWithin(textOf(settings, 'nas.backup.scrub.window'), now),
    level: textOf(settings, 'nas.backup.scrub.level') as ProvableLevel,
    unprovedBefore: new Date(now.getTime() - intervalMs),
    samplePercent: percent === 100 ? 0 : percent,
    bandwidthLimitMibps: integerOf(settings, 'nas.backup.scrub.bandwidth.limit.mbps'),
  };
}
