import { randomBytes } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';

/** What is stopped after the jobs when the host shuts down, so that they can end in order. */
const NEEDED = ['libvirtd.service', 'virtqemud.service', 'network-online.target', 'remote-fs.target'];

/**
 * What comes before a program's arguments, so that it runs in a scope of systemd's of its own: outside of the agent's
 * cgroup, so that nothing that is done to the agent's service reaches it. Empty where systemd does not run the host.
 *
 * The program keeps the process id, the standard streams and all that it inherits (systemd-run(1), --scope).
 */
export function runnerScope(jobId: string): readonly string[] {
  if (!isSystemdHost()) return [];
  // A scope lives as long as any process in it: one that recovers a job may meet what the first has left.
  const unit = `holdfast-job-${jobId}-${randomBytes(2).toString('hex')}`;
  return [
    ...['systemd-run', '--scope', '--quiet', '--collect', `--unit=${unit}`, '--slice=holdfast-jobs.slice'],
    ...[`--property=After=${NEEDED.join(' ')}`, '--property=TimeoutStopSec=60', '--'],
  ];
}

/** As sd_booted(3), and that process 1 of our own namespace is systemd: it must understand our process ids. */
function isSystemdHost(): boolean {
  return existsSync('/run/systemd/system') && readFileSync('/proc/1/comm', 'utf8') === 'systemd\n';
}
