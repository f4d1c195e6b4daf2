import { randomUUID } from 'node:crypto';
import { Control } from '@holdfast/proto/holdfast/agent/v1/agent.ts';
import { OperationEvent } from '@holdfast/proto/holdfast/v1/event.ts';
import type { Logger } from '@holdfast/common/logger.ts';
import type { Notice } from '../store/notices.ts';
import type { Store } from '../store/store.ts';
import type { Drivers } from './drivers.ts';
import type { Live } from './live.ts';

const SECOND = 1_000;
/** How often the others are told what is watched here, and how long that holds. */
const WATCHED_EVERY_MS = SECOND;
const WATCHED_FOR_MS = 4 * SECOND;
/** The progress of an operation is told to others this often at most. */
const PROGRESS_EVERY_MS = 0.5 * SECOND;
/** How long another controller may take to pass a command on. */
const COMMAND_DEADLINE_MS = 5 * SECOND;
const IDS_IN_A_NOTICE = 100;

export type Command = NonNullable<Control['command']>;

/** What controllers on one database do for each other: watch, and steer, what another one leads. */
export interface Elsewhere {
  /** Passes a command on to the agent, wherever its operation is led. False when nobody has a stream to it just now. */
  send(operationId: string, command: Command): Promise<boolean>;
  /** Tells others the progress of an operation that is led here, when they watch it. */
  tellProgress(operationId: string, event: OperationEvent): void;
  close(): void;
}

export function createElsewhere(parts: {
  readonly store: Store;
  readonly live: Live;
  readonly drivers: Drivers;
  readonly logger: Logger;
}): Elsewhere {
  const { store, live, drivers, logger } = parts;
  const { db, notices } = store;
  /** What others watch: until when, and when they were told of it last, by the key of what they were told. */
  const watchers = new Map<string, { until: number; readonly told: Map<string, number> }>();
  const waiting = new Map<string, () => void>();

  const tell = (notice: Notice): void => {
    notices.tell(notice, db).catch((error: unknown) => {
      // Progress is told again, a command is answered or given up.
      logger.debug('a notice was not sent', { error });
    });
  };
  const tellProgress: Elsewhere['tellProgress'] = (operationId, event) => {
    const watched = watchers.get(operationId);
    if (watched === undefined) return;
    const now = performance.now();
    if (now > watched.until) {
      watchers.delete(operationId);
      return;
    }
    const key = keyOf(event);
    if (now - (watched.told.get(key) ?? -Infinity) < PROGRESS_EVERY_MS) return;
    watched.told.set(key, now);
    tell({ kind: 'progress', operationId, event: OperationEvent.toJSON(event) });
  };
  const noteWatched = (operationIds: readonly string[]): void => {
    for (const operationId of operationIds.filter((id) => drivers.drives(id))) {
      const known = watchers.get(operationId);
      watchers.set(operationId, {
        until: performance.now() + WATCHED_FOR_MS,
        told: known?.told ?? new Map<string, number>(),
      });
      for (const event of live.progress(operationId)) tellProgress(operationId, event);
    }
  };
  const obey = (notice: Extract<Notice, { kind: 'command' }>): void => {
    const { command } = Control.fromJSON(notice.control);
    if (command !== undefined && drivers.send(notice.operationId, command)) {
      tell({ kind: 'passed', commandId: notice.commandId });
    }
  };
  const hear = (notice: Notice): void => {
    switch (notice.kind) {
      case 'stored':
        live.renew(notice.operationId);
        return;
      case 'progress':
        if (!drivers.drives(notice.operationId)) {
          live.note(notice.operationId, OperationEvent.fromJSON(notice.event));
        }
        return;
      case 'watched':
        noteWatched(notice.operationIds);
        return;
      case 'command':
        obey(notice);
        return;
      case 'passed':
        waiting.get(notice.commandId)?.();
        return;
      case 'divided':
        // The budget listens for itself.
        return;
      case 'missed':
        live.renewAll();
        drivers.lookAgain().catch((error: unknown) => {
          logger.warn('what came while the database was away was not looked for', { error });
        });
    }
  };
  const tellWatched = (): void => {
    const ids = live.watched().filter((id) => !drivers.drives(id));
    for (let at = 0; at < ids.length; at += IDS_IN_A_NOTICE) {
      tell({ kind: 'watched', operationIds: ids.slice(at, at + IDS_IN_A_NOTICE) });
    }
  };

  const stopListening = notices.listen(hear);
  const timer = store.shared ? setInterval(tellWatched, WATCHED_EVERY_MS) : undefined;
  return {
    tellProgress,
    send: async (operationId, command) => {
      if (drivers.send(operationId, command)) return true;
      if (!store.shared || drivers.drives(operationId)) return false;
      const commandId = randomUUID();
      const passed = Promise.withResolvers<boolean>();
      waiting.set(commandId, () => {
        passed.resolve(true);
      });
      const deadline = setTimeout(() => {
        passed.resolve(false);
      }, COMMAND_DEADLINE_MS);
      try {
        await notices.tell(
          { kind: 'command', commandId, operationId, control: Control.toJSON({ command }) },
          db,
        );
        return await passed.promise;
      } finally {
        clearTimeout(deadline);
        waiting.delete(commandId);
      }
    },
    close: () => {
      clearInterval(timer);
      stopListening();
    },
  };
}

/** Of progress with the same key, the latest counts. */
function keyOf({ event }: OperationEvent): string {
  return event?.$case === 'stageProgress' ? `progress of ${event.value.stage}` : (event?.$case ?? '');
}
