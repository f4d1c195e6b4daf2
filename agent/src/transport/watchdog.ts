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
const STALL_MS = 3_000;
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
  let stalled: string | undefined;
  let stopped = false;

  const look = async (): Promise<void> => {
    for (const [target, connection] of connections)
      if (!(await connection.isWaiting())) aliveMs.set(target, nowMs());
  };
  const silentFor = (milliseconds: number): string | undefined =>
    [...aliveMs].find(([, lastMs]) => nowMs() - lastMs > milliseconds)?.[0];

  const watch = async (): Promise<void> => {
    while (!stopped) {
      await look();
      stalled = silentFor(STALL_MS);
      if (stalled !== undefined) break;
      await sleep(LOOK_MS, undefined, { ref: false });
    }
    if (stalled === undefined) return;
    await killWriter();
    const killedMs = nowMs();
    while (nowMs() - killedMs < LAST_RESORT_MS) {
      // Often: between two of its many answers a connection is idle for a moment only.
      await sleep(LAST_LOOK_MS, undefined, { ref: false });
      await look();
      if (silentFor(nowMs() - killedMs) === undefined) return;
    }
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
