import type { JobLimits } from '@holdfast/proto/holdfast/agent/v1/agent.ts';
import { integerOf, textOf, type ResolvedSettings } from '../zones/resolve.ts';

const MINUTE_SECONDS = 60;

/** How long a job under these settings waits for others. */
export function limitsFrom(settings: ResolvedSettings): JobLimits {
  const waits = textOf(settings, 'nas.backup.repository.stalled') === 'wait';
  const minutes = Number(integerOf(settings, 'nas.backup.repository.stalled.minutes'));
  return {
    repositoryWaitSeconds: waits ? minutes * MINUTE_SECONDS : 0,
    timeoutMinutes: Number(integerOf(settings, 'nas.backup.timeout.minutes')),
  };
}
