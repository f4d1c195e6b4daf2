import { mkdirSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { fork, type ChildProcess } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { HoldfastError } from '@holdfast/common/errors.ts';
import type { RepositoryRef } from '@holdfast/proto/holdfast/agent/v1/agent.ts';
import { describePlace } from '@holdfast/common/repository.ts';
import { mountPlace, privateMountPlace, type MountPlace } from '../mount/place.ts';
import { MOUNT_DEADLINE_MS } from '../mount/plan.ts';
import { lockShared, type FileLock } from '@holdfast/common/fileLock.ts';
import type { HelperError, HelperRequest, HelperResponse, HelperRoot } from './helper.ts';
import type { Operations, Space } from './operations.ts';

/** A repository, as the processes of the agent use it: every call has a deadline, and none can hang its caller. */
export interface Repository extends Operations {
  readonly name: string;
  /** Where it is mounted; undefined for a local one. */
  readonly mount: MountPlace | undefined;
  /** The absolute path of something in it, for QEMU, which opens files itself. */
  pathOf(relative: string): string;
  close(): void;
}

interface Pending {
  readonly resolve: (result: unknown) => void;
  readonly reject: (error: Error) => void;
  /** Runs once the helper has started. */
  timer: NodeJS.Timeout | undefined;
}

/** How long a repository may take to answer. */
export interface Deadlines {
  readonly deadlineMs: number;
  /** Flushing may have to wait for gigabytes, removing for many blocks, and key files are many. */
  readonly slowDeadlineMs: number;
  /** For the question whether it answers at all. */
  readonly answerDeadlineMs: number;
}

/** A repository that owes an answer for so long is stalled. A NAS that is only busy answers within it. */
export const STALLED_AFTER_MS = 10_000;
export const DEADLINES: Deadlines = {
  deadlineMs: 30_000,
  slowDeadlineMs: 600_000,
  answerDeadlineMs: STALLED_AFTER_MS,
};
const SLOW: readonly (keyof Operations)[] = [
  'syncFile',
  'removeFolder',
  'findKeyFiles',
  'writeBackupKeyFiles',
  'digestPart',
  'dropCache',
];
/** The first call may mount: wait for its turn, try two versions, and take back a mount that is no good. */
const OPEN_DEADLINE_MS = 3 * MOUNT_DEADLINE_MS;
/** How long a helper may take to start, which says nothing of the repository. */
const START_DEADLINE_MS = 30_000;
const GONE_DEADLINE_MS = 2_000;
const POLL_MS = 50;

/** How a repository is opened on this host. */
export interface OpenOptions {
  /** Where this host's mounts are, one directory for all processes of the agent. */
  readonly mountsDirectory: string;
  readonly deadlines?: Deadlines;
  /** Mounts it once more, although it is mounted already: that proves the address and the credentials. */
  readonly afresh?: boolean;
}

/**
 * Opens a repository. Its helper process starts with the first call and ends with close() or with its parent. One that
 * is mounted stays mounted while any process that has made a call has not closed it, nor ended in any way.
 */
export function openRepository(
  ref: JournaledRef,
  { mountsDirectory, deadlines = DEADLINES, afresh = false }: OpenOptions,
): Repository {
  const pending = new Map<number, Pending>();
  const place = placeOf(ref, mountsDirectory, afresh);
  const root: HelperRoot = {
    path: place?.point ?? ref.path.replace(/(?<=.)\/+$/, ''),
    repositoryId: ref.repositoryId,
    mount: place && { source: ref, place },
  };
  let users: Promise<FileLock> | undefined;
  let helper: ChildProcess | undefined;
  let started: Promise<unknown> = Promise.resolve();
  /** Until the helper that was killed last is gone. The kernel lets one go that hangs in a NAS when it pleases. */
  let gone: Promise<true> = Promise.resolve(true);
  let hasAnswered = false;
  let lastId = 0;
  /** The one that is open: those that a hung NAS owes would take up all threads of the helper. */
  let question: Promise<Space> | undefined;

  const failAll = (error: HoldfastError): void => {
    if (helper !== undefined) {
      const killed = helper;
      if (killed.exitCode === null && killed.signalCode === null) {
        gone = new Promise((resolve) => {
          killed.once('exit', () => {
            resolve(true);
          });
        });
      }
      killed.kill('SIGKILL');
      helper = undefined;
    }
    for (const { reject, timer } of pending.values()) {
      clearTimeout(timer);
      reject(error);
    }
    pending.clear();
  };
  const start = (): ChildProcess => {
    const child = fork(fileURLToPath(new URL('./helper.ts', import.meta.url)), [root.path], {
      serialization: 'advanced',
      stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
      execArgv: [],
    });
    const { promise, resolve } = Promise.withResolvers<undefined>();
    started = Promise.race([promise, sleep(START_DEADLINE_MS, undefined, { ref: false })]);
    child.on('message', (response: HelperResponse) => {
      if ('started' in response) {
        resolve(undefined);
        return;
      }
      const waiting = pending.get(response.id);
      if (waiting === undefined) return;
      pending.delete(response.id);
      clearTimeout(waiting.timer);
      if ('result' in response) {
        hasAnswered = true;
        waiting.resolve(response.result);
      } else waiting.reject(repositoryError(ref, response.error));
    });
    const died = (): void => {
      if (child !== helper) return;
      failAll(new HoldfastError('REPOSITORY_FAILED', `The helper process of repository ${ref.name} died.`));
    };
    child.on('exit', died);
    // It could not be started, or it died and was sent a call before its end was heard of.
    child.on('error', died);
    // Its parent may end while it waits for a NAS.
    child.unref();
    hasAnswered = false;
    child.send(root);
    return child;
  };
  const use = async (): Promise<void> => {
    if (place === undefined) return;
    const asked = (users ??= lockUsers(ref, place));
    await asked.catch((error: unknown) => {
      if (users === asked) users = undefined;
      throw error;
    });
  };
  const withOpening = (ownMs: number): number => {
    return ownMs + (place === undefined || hasAnswered ? 0 : OPEN_DEADLINE_MS);
  };
  const send = async (
    operation: keyof Operations,
    args: readonly unknown[],
    ownMs?: number,
  ): Promise<never> => {
    await use();
    // No second one that hangs beside it.
    if (!(await Promise.race([gone, sleep(GONE_DEADLINE_MS, false, { ref: false })])))
      throw stalledError(ref, GONE_DEADLINE_MS);
    return new Promise((resolve, reject) => {
      const id = ++lastId;
      const waiting: Pending = {
        resolve: resolve as (result: unknown) => void,
        reject,
        timer: undefined,
      };
      pending.set(id, waiting);
      helper ??= start();
      helper.send({ id, operation, args } satisfies HelperRequest);
      if (ownMs === undefined) return;
      const deadlineMs = withOpening(ownMs);
      void started.then(() => {
        if (pending.get(id) !== waiting) return;
        waiting.timer = setTimeout(() => {
          failAll(stalledError(ref, deadlineMs));
        }, deadlineMs);
      });
    });
  };
  const call =
    <Name extends keyof Operations>(operation: Name) =>
    (...args: Parameters<Operations[Name]>): Promise<never> =>
      send(operation, args, deadlineOf(operation, deadlines));
  const answers = async (): Promise<Space> => {
    const deadlineMs = withOpening(deadlines.answerDeadlineMs);
    const asked = (question ??= (send('answers', []) as Promise<Space>).finally(() => {
      question = undefined;
    }));
    await Promise.race([asked, started]);
    const late = Promise.withResolvers<never>();
    const timer = setTimeout(() => {
      const error = stalledError(ref, deadlineMs);
      late.reject(error);
      // What others wait for may take its time, such as a removal of terabytes; it has deadlines of its own.
      if (pending.size === 1) failAll(error);
    }, deadlineMs);
    try {
      return await Promise.race([asked, late.promise]);
    } finally {
      clearTimeout(timer);
    }
  };

  return {
    name: ref.name,
    mount: place,
    pathOf: (relative) => `${root.path.replace(/\/$/, '')}/${relative}`,
    close: () => {
      failAll(new HoldfastError('REPOSITORY_FAILED', `Repository ${ref.name} was closed.`));
      void users?.then((lock) => {
        lock.release();
      });
      users = undefined;
    },
    probe: call('probe'),
    recognize: call('recognize'),
    answers,
    prepare: call('prepare'),
    makeFolder: call('makeFolder'),
    createFile: call('createFile'),
    syncFile: call('syncFile'),
    writeFile: call('writeFile'),
    readFile: call('readFile'),
    findKeyFiles: call('findKeyFiles'),
    acceptKeyEpoch: call('acceptKeyEpoch'),
    writeBackupKeyFiles: call('writeBackupKeyFiles'),
    removeZoneKeyFile: call('removeZoneKeyFile'),
    fileBytes: call('fileBytes'),
    digestPart: call('digestPart'),
    dropCache: call('dropCache'),
    foldersIn: call('foldersIn'),
    filesIn: call('filesIn'),
    hasFolder: call('hasFolder'),
    syncFolder: call('syncFolder'),
    renameFolder: call('renameFolder'),
    unfinished: call('unfinished'),
    removeTemporary: call('removeTemporary'),
    removeFolder: call('removeFolder'),
  };
}

/** A repository as it may stand in a file: without a password. */
export type JournaledRef = Omit<RepositoryRef, 'credentials'> & Partial<Pick<RepositoryRef, 'credentials'>>;

export function withoutPassword({ credentials, ...ref }: RepositoryRef): JournaledRef {
  return credentials === undefined ? ref : { ...ref, credentials: { ...credentials, password: '' } };
}

/** Where a repository is mounted by this host's agent; undefined for a local one. */
export function placeOf(ref: JournaledRef, mountsDirectory: string, afresh = false): MountPlace | undefined {
  if (ref.address === '') return undefined;
  if (afresh) return privateMountPlace(mountsDirectory);
  const { type, address, mountOptions, credentials } = ref;
  return mountPlace(mountsDirectory, { type, address, mountOptions: [...mountOptions] }, credentials);
}

/** Keeps the place from being unmounted. Waits while somebody unmounts it right now. */
async function lockUsers(ref: JournaledRef, place: MountPlace): Promise<FileLock> {
  mkdirSync(place.directory, { recursive: true, mode: 0o700 });
  const endMs = Date.now() + OPEN_DEADLINE_MS;
  for (;;) {
    const lock = lockShared(place.users);
    if (lock !== undefined) return lock;
    if (Date.now() > endMs) {
      throw new HoldfastError(
        'REPOSITORY_STALLED',
        `Repository ${ref.name} (${describePlace(ref)}) is being unmounted, which does not end. Is the NAS up?`,
      );
    }
    await sleep(POLL_MS);
  }
}

function deadlineOf(operation: keyof Operations, deadlines: Deadlines): number {
  return SLOW.includes(operation) ? deadlines.slowDeadlineMs : deadlines.deadlineMs;
}

function stalledError(ref: JournaledRef, deadlineMs: number): HoldfastError {
  return new HoldfastError(
    'REPOSITORY_STALLED',
    `Repository ${ref.name} (${describePlace(ref)}) did not answer within ${deadlineMs / 1_000} s. Is the NAS up?`,
    { metadata: { repository: ref.name } },
  );
}

function repositoryError(ref: JournaledRef, error: HelperError): HoldfastError {
  const where = `Repository ${ref.name} (${describePlace(ref)})`;
  const metadata = { repository: ref.name };
  if (error.reason !== undefined)
    return new HoldfastError(error.reason, `${where}: ${error.message}`, { metadata });
  switch (error.code) {
    case 'ENOSPC':
    case 'EDQUOT':
      return new HoldfastError('REPOSITORY_FULL', `${where} is full.`, { metadata });
    case 'ENOENT':
      return new HoldfastError('REPOSITORY_UNUSABLE', `${where} is not there: ${error.message}`, {
        metadata,
      });
    case 'ENOTDIR':
      return new HoldfastError('REPOSITORY_UNUSABLE', `${where} is not a directory.`, { metadata });
    case 'EACCES':
    case 'EPERM':
    case 'EROFS':
      return new HoldfastError('REPOSITORY_UNUSABLE', `${where} cannot be written to: ${error.message}`, {
        metadata,
      });
    default:
      return new HoldfastError('REPOSITORY_FAILED', `${where}: ${error.message}`, { metadata });
  }
}
