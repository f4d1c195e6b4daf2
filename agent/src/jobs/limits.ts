import type { JobLimits } from '@holdfast/proto/holdfast/agent/v1/agent.ts';
import { settingDefinitions } from '@holdfast/common/settings.ts';

/** How long a job waits for others, in milliseconds. */
export interface Limits {
  /** For a repository that is stalled; 0: not at all. */
  readonly repositoryWaitMs: number;
  /** How long nothing may move; 0: for ever. */
  readonly timeoutMs: number;
}

const SECOND = 1_000;
const MINUTE = 60 * SECOND;

/** Those that a start message gives, or else what the settings are by default. */
export function limitsOf(given: JobLimits | undefined): Limits {
  if (given !== undefined) {
    const { repositoryWaitSeconds, timeoutMinutes } = given;
    return { repositoryWaitMs: repositoryWaitSeconds * SECOND, timeoutMs: timeoutMinutes * MINUTE };
  }
  const minutes = (key: 'nas.backup.repository.stalled.minutes' | 'nas.backup.timeout.minutes'): number =>
    Number(settingDefinitions[key].defaultValue);
  return {
    repositoryWaitMs: minutes('nas.backup.repository.stalled.minutes') * MINUTE,
    timeoutMs: minutes('nas.backup.timeout.minutes') * MINUTE,
  };
}
