import { setTimeout as sleep } from 'node:timers/promises';
import { HoldfastError } from '@holdfast/common/errors.ts';
import { orAbort } from '../process/orAbort.ts';
import type { Operations, Space } from './operations.ts';
import { STALLED_AFTER_MS, type Repository } from './repository.ts';

/** A repository that is asked all the time whether it answers, and that waits, or gives up, when it does not. */
export interface WatchedRepository extends Repository {
  /** Since when it has owed an answer; undefined while it does not count as stalled. */
  readonly stalledSince: Date | undefined;
  /** Aborts with the error when it was given up, and soon after the job was cancelled. */
  readonly givenUp: AbortSignal;
  /** Its space as of the last answer. */
  readonly space: Space | undefined;
  /** Whether its job was. */
  isCancelled(): boolean;
  /** @throws HoldfastError REPOSITORY_STALLED when it was given up, REPOSITORY_FAILED */
  requireAnswer(): void;
  /** Waits for something that QEMU does on it, and no longer once it was given up. */
  whileAnswering<Result>(work: Promise<Result>): Promise<Result>;
}

/** What a watch finds out. */
export type LivenessChange =
  | { readonly kind: 'stalled'; readonly since: Date; readonly giveUp: Date }
  | { readonly kind: 'answered'; readonly stalledMs: number };

export interface WatchOptions {
  /** How long one that is stalled is waited for; 0: it is given up as soon as it is. */
  readonly waitMs: number;
  /** Ends all waiting. */
  readonly signal: AbortSignal;
  /** Told at once. */
  readonly tell: (change: LivenessChange) => void;
  /** Told of each call that was answered. */
  readonly moved?: () => void;
  readonly everyMs?: number;
  readonly stalledAfterMs?: number;
}

const EVERY_MS = 2_000;
/** The first answer may take a mount, which has deadlines of its own. */
const MOUNT_MS = 20_000;
/** What is cut off leaves something half done, so a call that is under way when the job is cancelled may end. */
const CANCEL_GRACE_MS = 2_000;

/**
 * Watches a repository for a job, from now until it is closed. No call fails because it is stalled, until it was so for
 * `waitMs`; then all fail. Once the job is cancelled no call is begun, and none is waited for longer than two seconds.
 *
 * @param repository opened with deadlines that are longer than all that waiting
 */
export function watchRepository(repository: Repository, options: WatchOptions): WatchedRepository {
  const { waitMs, signal, tell, moved, everyMs = EVERY_MS, stalledAfterMs = STALLED_AFTER_MS } = options;
  const closed = new AbortController();
  const over = new AbortController();
  let isOpen = false;
  let stalledSince: Date | undefined;
  let space: Space | undefined;

  const cancel = (): void => {
    setTimeout(() => {
      over.abort(signal.reason);
    }, CANCEL_GRACE_MS).unref();
  };
  signal.addEventListener('abort', cancel, { once: true });
  if (signal.aborted) cancel();

  const stalled = (since: Date): void => {
    if (stalledSince !== undefined) return;
    stalledSince = since;
    // One that is not waited for ends the job, which tells enough.
    if (waitMs > 0)
      tell({ kind: 'stalled', since, giveUp: new Date(since.getTime() + stalledAfterMs + waitMs) });
  };
  const answered = (): void => {
    isOpen = true;
    if (stalledSince === undefined) return;
    if (waitMs > 0) tell({ kind: 'answered', stalledMs: Date.now() - stalledSince.getTime() });
    stalledSince = undefined;
  };
  /** One question; true once it is answered. A NAS that is down cannot be mounted, and the next question tries again. */
  const ask = async (firstMs: number): Promise<boolean> => {
    const silentMs = stalledAfterMs + (isOpen || repository.mount === undefined ? 0 : MOUNT_MS);
    const silent = setTimeout(() => {
      stalled(new Date(firstMs));
    }, silentMs);
    try {
      space = await repository.answers();
      answered();
      return true;
    } catch (error) {
      const isStalled = error instanceof HoldfastError && error.reason === 'REPOSITORY_STALLED';
      if (!isStalled || Date.now() - firstMs >= stalledAfterMs + waitMs) throw error;
      stalled(new Date(firstMs));
      return false;
    } finally {
      clearTimeout(silent);
    }
  };
  const untilAnswer = async (): Promise<void> => {
    const firstMs = Date.now();
    while (!(await ask(firstMs))) await sleep(everyMs, undefined, { signal: closed.signal });
  };
  const watch = async (): Promise<void> => {
    for (;;) {
      await sleep(everyMs, undefined, { signal: closed.signal, ref: false });
      await untilAnswer();
    }
  };
  const opened = untilAnswer();
  opened.then(watch).catch((error: unknown) => {
    if (!closed.signal.aborted) over.abort(error);
  });

  const whileAnswering = <Result>(work: Promise<Result>): Promise<Result> => orAbort(work, over.signal);
  const wrap =
    <Name extends keyof Operations>(operation: Name) =>
    async (...args: Parameters<Operations[Name]>): Promise<never> => {
      const call = repository[operation] as (...args: Parameters<Operations[Name]>) => Promise<never>;
      const result = await whileAnswering(
        opened.then(() => {
          signal.throwIfAborted();
          return call(...args);
        }),
      );
      moved?.();
      return result;
    };
  return {
    name: repository.name,
    mount: repository.mount,
    pathOf: (relative) => repository.pathOf(relative),
    get stalledSince() {
      return stalledSince;
    },
    givenUp: over.signal,
    get space() {
      return space;
    },
    isCancelled: () => signal.aborted,
    requireAnswer: () => {
      over.signal.throwIfAborted();
    },
    whileAnswering,
    close: () => {
      closed.abort();
      signal.removeEventListener('abort', cancel);
      repository.close();
    },
    probe: wrap('probe'),
    recognize: wrap('recognize'),
    answers: wrap('answers'),
    prepare: wrap('prepare'),
    makeFolder: wrap('makeFolder'),
    createFile: wrap('createFile'),
    syncFile: wrap('syncFile'),
    writeFile: wrap('writeFile'),
    readFile: wrap('readFile'),
    findKeyFiles: wrap('findKeyFiles'),
    acceptKeyEpoch: wrap('acceptKeyEpoch'),
    writeBackupKeyFiles: wrap('writeBackupKeyFiles'),
    removeZoneKeyFile: wrap('removeZoneKeyFile'),
    fileBytes: wrap('fileBytes'),
    digestPart: wrap('digestPart'),
    dropCache: wrap('dropCache'),
    foldersIn: wrap('foldersIn'),
    filesIn: wrap('filesIn'),
    hasFolder: wrap('hasFolder'),
    syncFolder: wrap('syncFolder'),
    renameFolder: wrap('renameFolder'),
    removeFolder: wrap('removeFolder'),
    unfinished: wrap('unfinished'),
    removeTemporary: wrap('removeTemporary'),
  };
}
