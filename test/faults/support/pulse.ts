import { until } from '../../lab/deadline.ts';
import type { Guest } from '../../lab/guest.ts';

/**
 * In the guest: writes 64 KiB and flushes them to the disk, all the time, to one place of a file after the other. Each line
 * of the log is the guest's time before, that after, and the exit code.
 */
const SCRIPT = `#!/bin/sh
block=0
while :; do
  block=$(((block + 63) % 64))
  read -r before _ </proc/uptime
  dd if=/dev/urandom of=/data/pulse bs=64k count=1 seek=$block conv=notrunc,fsync 2>/dev/null
  code=$?
  read -r after _ </proc/uptime
  echo "$before $after $code" >>/run/pulse
  usleep 100000
done
`;

const LOG = '/run/pulse';

/** What a guest's writes met with. */
export interface Pulse {
  readonly writes: number;
  readonly failed: number;
  /** The longest that one write took, or that the guest stood still. */
  readonly stallMs: number;
}

/** The steady writes of a guest, for as long as it runs. */
export interface PulseWatch {
  /** What they met with since this watch began. The last write has ended by then; throws when it does not in time. */
  end(): Promise<Pulse>;
}

/** Begins the writes; they end with the guest. */
export async function startPulse(guest: Guest): Promise<void> {
  await guest.writeFile('/run/pulse.sh', SCRIPT);
  await guest.command('guest-exec', { path: '/bin/sh', arg: ['/run/pulse.sh'] });
  await until('The guest writes', 20_000, async () => ((await linesOf(guest)).length > 0 ? true : undefined));
}

/** Watches the writes of a guest from now on. */
export async function watchPulse(guest: Guest): Promise<PulseWatch> {
  await guest.command('guest-file-close', {
    // Emptied, so that it does not grow for ever.
    handle: await guest.command('guest-file-open', { path: LOG, mode: 'w' }),
  });
  const begun = await clocks(guest);
  return {
    end: async () => {
      const asked = await clocks(guest);
      // A write that hangs has no line yet.
      const lines = await until('A write ends', 60_000, async () => {
        const all = await linesOf(guest);
        return (all.at(-1)?.after ?? 0) >= asked.guestMs / 1000 ? all : undefined;
      });
      const seen = lines.filter(({ after }) => after * 1000 >= begun.guestMs);
      const slowestMs = Math.max(...seen.map(({ before, after }) => Math.round((after - before) * 1000)));
      // The clock of a guest that is paused stands still, so that its writes do not notice.
      const pausedMs = Math.round(asked.hostMs - begun.hostMs - (asked.guestMs - begun.guestMs));
      return {
        writes: seen.length,
        failed: seen.filter(({ code }) => code !== 0).length,
        stallMs: Math.max(slowestMs, pausedMs > CLOCK_NOISE_MS ? pausedMs : 0),
      };
    },
  };
}

/** How far apart two clocks may be read. */
const CLOCK_NOISE_MS = 500;

interface Line {
  readonly before: number;
  readonly after: number;
  readonly code: number;
}

async function linesOf(guest: Guest): Promise<readonly Line[]> {
  const text = await guest.readFile(LOG).catch(() => '');
  return text
    .split('\n')
    .slice(0, -1)
    .map((line) => {
      const [before = 0, after = 0, code = 1] = line.split(' ').map(Number);
      return { before, after, code };
    });
}

async function clocks(guest: Guest): Promise<{ readonly hostMs: number; readonly guestMs: number }> {
  const askedMs = performance.now();
  const text = await guest.readFile('/proc/uptime');
  return { hostMs: (askedMs + performance.now()) / 2, guestMs: Number(text.split(' ')[0]) * 1000 };
}
