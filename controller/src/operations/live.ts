import { coalescingKey, keepLatest } from '@holdfast/common/events.ts';
import type { OperationEvent } from '@holdfast/proto/holdfast/v1/event.ts';
import { isLast } from './reduce.ts';

/** Wakes a reader when there is something new. Any number of changes is one waking, so a slow reader costs nothing. */
export interface Subscription {
  /**
   * Waits until something changed since the last return, and says whether something was stored; otherwise it is progress
   * alone. @throws the signal's reason when it aborts
   */
  next(signal: AbortSignal): Promise<{ readonly stored: boolean }>;
  close(): void;
}

/** What is known of running operations besides what is stored: the latest of what coalesces, and who watches. */
export interface Live {
  /** Notes an event that was stored, or progress, which is only kept here. */
  note(operationId: string, event: OperationEvent): void;
  /** The latest progress of each stage that runs, what it waits for, and its share of bandwidth, in the order of time. */
  progress(operationId: string): readonly OperationEvent[];
  /** Another controller stored events of it: watchers read them, and earlier progress is void. */
  renew(operationId: string): void;
  /** The same for everything. */
  renewAll(): void;
  /** What is watched. */
  watched(): string[];
  /** Forgets what it waits for: it does not wait any more. */
  unqueue(operationId: string): void;
  subscribe(operationId: string): Subscription;
}

interface Entry {
  readonly progress: Map<string, OperationEvent>;
  readonly wakers: Set<(stored: boolean) => void>;
}

export function createLive(): Live {
  const entries = new Map<string, Entry>();
  const entryOf = (operationId: string): Entry => {
    let entry = entries.get(operationId);
    if (entry === undefined) {
      entry = { progress: new Map(), wakers: new Set() };
      entries.set(operationId, entry);
    }
    return entry;
  };
  const tidy = (operationId: string): void => {
    const entry = entries.get(operationId);
    if (entry?.wakers.size === 0 && entry.progress.size === 0) entries.delete(operationId);
  };
  const renew = (operationId: string): void => {
    const entry = entries.get(operationId);
    if (entry === undefined) return;
    entry.progress.clear();
    for (const wake of entry.wakers) wake(true);
    tidy(operationId);
  };
  return {
    note: (operationId, event) => {
      const entry = entryOf(operationId);
      const key = coalescingKey(event);
      if (key !== undefined) keepLatest(entry.progress, key, event);
      const gone = madeVoid(event);
      if (gone !== undefined) entry.progress.delete(gone);
      if (isLast(event)) entry.progress.clear();
      const stored = key === undefined;
      for (const wake of entry.wakers) wake(stored);
      tidy(operationId);
    },
    renew,
    renewAll: () => {
      for (const operationId of [...entries.keys()]) renew(operationId);
    },
    watched: () => [...entries].filter(([, { wakers }]) => wakers.size > 0).map(([id]) => id),
    progress: (operationId) => [...(entries.get(operationId)?.progress.values() ?? [])],
    unqueue: (operationId) => {
      entries.get(operationId)?.progress.delete('queued');
      tidy(operationId);
    },
    subscribe: (operationId) => {
      let changed = false;
      let stored = false;
      let resume: (() => void) | undefined;
      const wake = (isStored: boolean): void => {
        changed = true;
        stored ||= isStored;
        resume?.();
      };
      entryOf(operationId).wakers.add(wake);
      return {
        next: async (signal) => {
          signal.throwIfAborted();
          if (!changed) {
            const woken = Promise.withResolvers<undefined>();
            resume = () => {
              woken.resolve(undefined);
            };
            signal.addEventListener('abort', resume, { once: true });
            await woken.promise;
            signal.removeEventListener('abort', resume);
            resume = undefined;
            signal.throwIfAborted();
          }
          const happened = { stored };
          changed = false;
          stored = false;
          return happened;
        },
        close: () => {
          entries.get(operationId)?.wakers.delete(wake);
          tidy(operationId);
        },
      };
    },
  };
}

/** The key of what an event makes void. */
function madeVoid({ event }: OperationEvent): string | undefined {
  switch (event?.$case) {
    case 'accepted':
      return 'queued';
    case 'stageFinished':
      return coalescingKey({ event: { $case: 'stageProgress', value: event.value } });
    default:
      return undefined;
  }
}
