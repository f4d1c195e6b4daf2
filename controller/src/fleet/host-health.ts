import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Logger } from '@holdfast/common/logger.ts';
import { HostState, type Host, type HostCapabilities } from '@holdfast/proto/holdfast/v1/host.ts';
import type { Agents } from './agents.ts';

const SECOND = 1_000;

/** How often each host is asked. Dead connections are found by keepalive besides. */
export const HEARTBEAT_MS = 10 * SECOND;
/** A host that has missed one is asked again sooner. */
const SECOND_TRY_MS = SECOND;
/** So many misses in a row, and the host is down: one alone may be an agent that is being restarted. */
const MISSES_UNTIL_DOWN = 2;
/** What a host can do changes with its packages: asked when it comes up, and every so many heartbeats. */
const CAPABILITIES_EVERY = 30;

/** What this controller has seen of a host. Nothing of it is stored: each controller looks for itself. */
export interface HostView {
  readonly state: HostState;
  readonly lastSeenTime: Date | undefined;
  /** Why it is not up. */
  readonly stateMessage: string;
  readonly capabilities: HostCapabilities | undefined;
}

/** Whether hosts answer, found out by asking each of them again and again. */
export interface HostHealth {
  of(host: string): HostView;
  /** Asks all hosts for ever, each by itself, so that a silent one holds up no other. */
  start(list: () => Promise<readonly Host[]>): void;
  /** Asks one host now. */
  look(host: Pick<Host, 'name' | 'zone' | 'address'>): Promise<void>;
  forget(host: string): void;
  /** Is told whenever a host comes up or goes down. */
  onChange(listener: () => void): void;
  /** Ends the asking, and waits until it has ended. */
  close(): Promise<void>;
}

interface Entry {
  view: HostView;
  misses: number;
  beats: number;
}

const UNKNOWN: HostView = {
  state: HostState.HOST_STATE_UNKNOWN,
  lastSeenTime: undefined,
  stateMessage: '',
  capabilities: undefined,
};

export function createHostHealth(parts: {
  readonly agents: Agents;
  readonly now: () => Date;
  readonly logger: Logger;
  readonly heartbeatMs?: number;
}): HostHealth {
  const { agents, now, logger, heartbeatMs = HEARTBEAT_MS } = parts;
  const entries = new Map<string, Entry>();
  const listeners: (() => void)[] = [];
  const stop = new AbortController();
  let loop: Promise<void> | undefined;

  const entryOf = (name: string): Entry => {
    const known = entries.get(name) ?? { view: UNKNOWN, misses: 0, beats: 0 };
    entries.set(name, known);
    return known;
  };
  const change = (host: Pick<Host, 'name' | 'zone'>, entry: Entry, view: HostView): void => {
    const before = entry.view.state;
    entry.view = view;
    if (before === view.state) return;
    const isUp = view.state === HostState.HOST_STATE_UP;
    logger[isUp ? 'info' : 'warn'](isUp ? 'host is up' : 'host is down', {
      host: host.name,
      zone: host.zone,
      detail: view.stateMessage,
    });
    for (const listener of listeners) listener();
  };
  const capabilitiesOf = async (
    host: Pick<Host, 'name' | 'zone' | 'address'>,
    entry: Entry,
  ): Promise<HostCapabilities | undefined> => {
    const isDue =
      entry.view.capabilities === undefined ||
      entry.view.state !== HostState.HOST_STATE_UP ||
      entry.beats % CAPABILITIES_EVERY === 0;
    if (!isDue) return entry.view.capabilities;
    const { zone, toolVersions, features } = await agents.identify(host, randomUUID());
    if (zone === host.zone) return { toolVersions, features };
    throw new Error(
      `The agent at ${host.address} says that it belongs to zone ${JSON.stringify(zone)}, not to ${host.zone}.`,
    );
  };
  const look: HostHealth['look'] = async (host) => {
    const entry = entryOf(host.name);
    try {
      await agents.beat(host);
      // Another agent may have taken the place of the one that was there.
      const capabilities = await capabilitiesOf(host, entry);
      entry.misses = 0;
      entry.beats += 1;
      const { HOST_STATE_UP: state } = HostState;
      if (entries.get(host.name) === entry)
        change(host, entry, { state, lastSeenTime: now(), stateMessage: '', capabilities });
    } catch (error) {
      if (stop.signal.aborted || entries.get(host.name) !== entry) return;
      entry.misses += 1;
      if (entry.misses < MISSES_UNTIL_DOWN) return;
      const stateMessage = error instanceof Error ? error.message : String(error);
      change(host, entry, { ...entry.view, state: HostState.HOST_STATE_DOWN, stateMessage });
    }
  };
  /** Twice when it is missed for the first time, so that a dead host is known to be one soon. */
  const visit = async (host: Host): Promise<void> => {
    await look(host);
    if (entryOf(host.name).misses !== 1) return;
    await sleep(Math.min(SECOND_TRY_MS, heartbeatMs), undefined, { signal: stop.signal });
    await look(host);
  };
  const visiting = new Map<string, Promise<void>>();
  const begin = (host: Host): void => {
    if (visiting.has(host.name)) return;
    const visited = visit(host)
      .catch(() => undefined)
      .finally(() => visiting.delete(host.name));
    visiting.set(host.name, visited);
  };
  /** False when everything stops. */
  const pauseUntil = async (time: number): Promise<boolean> => {
    const ms = time - performance.now();
    if (ms > 0) await sleep(ms, undefined, { signal: stop.signal }).catch(() => undefined);
    return !stop.signal.aborted;
  };
  /** All at once the first time; then spread over the time between two beats, so that a thousand hosts hold up nothing else. */
  const visitAll = async (list: () => Promise<readonly Host[]>): Promise<void> => {
    let spread = false;
    while (!stop.signal.aborted) {
      const began = performance.now();
      try {
        const round = (await list()).map((host) => ({ host, entry: entryOf(host.name) }));
        for (const [index, { host, entry }] of round.entries()) {
          if (spread && !(await pauseUntil(began + (heartbeatMs * index) / round.length))) break;
          // It may have been removed meanwhile.
          if (entries.get(host.name) === entry) begin(host);
        }
      } catch (error) {
        logger.error('the hosts could not be listed', { error });
      }
      spread = true;
      await pauseUntil(began + heartbeatMs);
    }
    await Promise.all(visiting.values());
  };
  return {
    of: (name) => entries.get(name)?.view ?? UNKNOWN,
    start: (list) => {
      loop ??= visitAll(list);
    },
    look,
    forget: (name) => {
      entries.delete(name);
    },
    onChange: (listener) => {
      listeners.push(listener);
    },
    close: async () => {
      stop.abort();
      await loop;
    },
  };
}
