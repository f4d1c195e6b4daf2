/** Milliseconds as people say them: `340ms`, `4.2s`, `1m12s`, `2h05m`, `3d04h`. */
export function formatDuration(milliseconds: bigint | number): string {
  const ms = Math.max(0, Number(milliseconds));
  if (ms < 999.5) return `${ms.toFixed(0)}ms`;
  if (ms < 9_950) return `${(ms / 1000).toFixed(1)}s`;
  const seconds = Math.round(ms / 1000);
  if (seconds < 60) return `${seconds}s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes}m${pad(seconds % 60)}s`;
  const hours = Math.floor(minutes / 60);
  if (hours < 24) return `${hours}h${pad(minutes % 60)}m`;
  return `${Math.floor(hours / 24)}d${pad(hours % 24)}h`;
}

/** A point in time as UTC to the second, `-` when there is none. */
export function formatTime(time: Date | undefined): string {
  return time === undefined
    ? '-'
    : time
        .toISOString()
        .replace('T', ' ')
        .replace(/\.\d+Z$/, 'Z');
}

function pad(value: number): string {
  return String(value).padStart(2, '0');
}
