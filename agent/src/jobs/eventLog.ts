import { coalescingKey, keepLatest, progressKey } from '@holdfast/common/events.ts';
import { OperationEvent, type Stage } from '@holdfast/proto/holdfast/v1/event.ts';
import { isTerminal, type Journal } from './journal.ts';

/** What happened, without its number and time. */
export type JobEvent = NonNullable<OperationEvent['event']>;

/** The numbered events of a job. Of what coalesces only the latest is kept: the progress of each stage that runs, the share. */
export interface EventLog {
  append(event: JobEvent): Promise<void>;
  /** Events after a number, those still to come included; ends after the last one, or when the signal aborts. */
  follow(afterSequence: bigint, signal: AbortSignal): AsyncGenerator<OperationEvent, void>;
}

/** The event log of a job, after the events that an earlier process of it left in the journal. */
export function eventLog(journal: Journal, earlier: readonly OperationEvent[], now: () => Date): EventLog {
  const events = [...earlier];
  const latest = new Map<string, OperationEvent>();
  const started = new Set<Stage>();
  let lastSequence = earlier.at(-1)?.sequence ?? 0n;
  let changed = Promise.withResolvers<undefined>();

  const wake = (): void => {
    changed.resolve(undefined);
    changed = Promise.withResolvers();
  };
  const next = async (signal: AbortSignal): Promise<void> => {
    const aborted = Promise.withResolvers<undefined>();
    const abort = (): void => {
      aborted.resolve(undefined);
    };
    signal.addEventListener('abort', abort);
    await Promise.race([changed.promise, aborted.promise]);
    signal.removeEventListener('abort', abort);
  };

  return {
    append: async (event) => {
      const key = coalescingKey({ event });
      if (key !== undefined) {
        keepLatest(latest, key, { sequence: lastSequence, time: now(), event });
        wake();
        return;
      }
      if (event.$case === 'stageStarted') {
        // A stage that starts again makes what was told since its first start void.
        if (started.has(event.value.stage)) {
          for (const stage of started) latest.delete(progressKey(stage));
          started.clear();
        }
        started.add(event.value.stage);
      }
      if (event.$case === 'stageFinished') latest.delete(progressKey(event.value.stage));
      const numbered: OperationEvent = { sequence: ++lastSequence, time: now(), event };
      // Durable before anyone sees it: a reader must not know more than the journal.
      await journal.append({ kind: 'event', event: OperationEvent.toJSON(numbered) });
      events.push(numbered);
      wake();
    },
    follow: async function* (afterSequence, signal) {
      const seen = new Map<string, OperationEvent>();
      let sent = afterSequence;
      while (!signal.aborted) {
        const fresh = events.filter((event) => event.sequence > sent);
        for (const event of fresh) {
          yield event;
          sent = event.sequence;
          if (isTerminal(event)) return;
        }
        // Progress that came after an event which is still to be sent waits for that.
        const moved = [...latest].filter(([key, event]) => seen.get(key) !== event && event.sequence <= sent);
        for (const [key, event] of moved) {
          seen.set(key, event);
          yield event;
        }
        if (fresh.length === 0 && moved.length === 0) await next(signal);
      }
    },
  };
}
