import { setTimeout as sleep } from 'node:timers/promises';
import type { FuseConnection } from './fuseConnection.ts';

/** Watches that the targets of a push backup answer. */
export interface Watchdog {
  /** Says that a disk's data moved. */
  progressed(target: string): void;
  /** The disk whose target stopped answering; undefined as long as all answer. */
  stalled(): string | undefined;
  stop(): void;
}

export interface WatchedTargets {
  readonly connections: ReadonlyMap<string, FuseConnection>;
  /** Kills the daemon that writes to the repository, so that the one before it answers in its place. */
  readonly killWriter: () => Promise<void>;
  /** Milliseconds, of a clock that never goes back. */
  readonly nowMs: () => number;
}

const LOOK_MS = 250;
/** A write of the guest may wait for five seconds at most, and what is done then takes its part of them. */
const STALL_MS = 2_500;
/** Then it is asked again and again for so long: on a busy host the watchdog itself may have had no time to look. */
const CONFIRM_MS = 500;
const LAST_LOOK_MS = 20;
/** How long an exporter that has lost its writer may take to answer, on a host that is busy. Afterwards writes fail. */
const LAST_RESORT_MS = 1_900;

/**
 * A target that owes an answer for too long, and moves no data meanwhile, is taken to hang, whatever the reason: the
 * writer is killed, the exporter answers without it, and no write of the guest fails. Should that not help, the exporter
 * hangs itself; then its connections are aborted, so that the guest waits no longer.
 */
export function watchTargets({ connections, killWriter, nowMs }: WatchedTargets): Watchdog {
  const aliveMs = new Map([...connections.keys()].map((target) => [target, nowMs()]));
  const lastOwed = new Map<string, number>();
  let stalled: string | undefined;
  let stopped = false;

  /** Who owes less than before has answered: on a busy host a target that answers much may never be seen idle. */
  const look = async (): Promise<void> => {
    for (const [target, connection] of connections) {
      const owed = await connection.waiting();
      if (owed === 0 || owed < (lastOwed.get(target) ?? 0)) aliveMs.set(target, nowMs());
      lastOwed.set(target, owed);
    }
  };
  const silentFor = (milliseconds: number): string | undefined =>
    [...aliveMs].find(([, lastMs]) => nowMs() - lastMs > milliseconds)?.[0];

  /** Whether every exporter answers. Asked again at once, one that answers much may never be seen idle. */
  const answersWithin = async (milliseconds: number): Promise<boolean> => {
    const untilMs = nowMs() + milliseconds;
    const silent = new Map([...connections].map(([target, connection]) => [target, { connection, owed: 0 }]));
    while (silent.size > 0 && nowMs() < untilMs) {
      for (const [target, { connection, owed }] of silent) {
        const owes = await connection.waiting();
        if (owes === 0 || owes < owed) silent.delete(target);
        else silent.set(target, { connection, owed: owes });
      }
      await sleep(LAST_LOOK_MS, undefined, { ref: false });
    }
    return silent.size === 0;
  };

  const watch = async (): Promise<void> => {
    while (!stopped) {
      await look();
      const silent = silentFor(STALL_MS);
      if (silent !== undefined) {
        if (!(await answersWithin(CONFIRM_MS))) {
          stalled = silent;
          break;
        }
        for (const target of connections.keys()) aliveMs.set(target, nowMs());
      }
      await sleep(LOOK_MS, undefined, { ref: false });
    }
    // What it wrote is needed once the push has ended.
    if (stalled === undefined || stopped) return;
    await killWriter();
    if (!(await answersWithin(LAST_RESORT_MS)))
      for (const connection of connections.values()) await connection.abort();
  };
  void watch();
  return {
    progressed: (target) => {
      aliveMs.set(target, nowMs());
    },
    stalled: () => stalled,
    stop: () => {
      stopped = true;
    },
  };
}
