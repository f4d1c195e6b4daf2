import { fork, type ChildProcess } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { HoldfastError } from '@holdfast/common/errors.ts';
import type { RepositoryRef } from '@holdfast/proto/holdfast/agent/v1/agent.ts';
import type { HelperError, HelperRequest, HelperResponse } from './helper.ts';
import type { Operations } from './operations.ts';

/** A repository, as the processes of the agent use it: every call has a deadline, and none can hang its caller. */
export interface Repository extends Operations {
  readonly name: string;
  /** The absolute path of something in it, for QEMU, which opens files itself. */
  pathOf(relative: string): string;
  close(): void;
}

interface Pending {
  readonly resolve: (result: unknown) => void;
  readonly reject: (error: Error) => void;
  readonly timer: NodeJS.Timeout;
}

/** How long a repository may take to answer. */
export interface Deadlines {
  readonly deadlineMs: number;
  /** Flushing may have to wait for gigabytes, and removing for many blocks. */
  readonly slowDeadlineMs: number;
}

const DEADLINES: Deadlines = { deadlineMs: 30_000, slowDeadlineMs: 600_000 };
const SLOW: readonly (keyof Operations)[] = ['syncFile', 'removeFolder'];

/** Opens a repository. Its helper process starts with the first call and ends with close() or with its parent. */
export function openRepository(
  ref: JournaledRef & Partial<RepositoryRef>,
  deadlines: Deadlines = DEADLINES,
): Repository {
  const pending = new Map<number, Pending>();
  let helper: ChildProcess | undefined;
  let lastId = 0;

  const failAll = (error: HoldfastError): void => {
    helper?.kill('SIGKILL');
    helper = undefined;
    for (const { reject, timer } of pending.values()) {
      clearTimeout(timer);
      reject(error);
    }
    pending.clear();
  };
  const start = (): ChildProcess => {
    const child = fork(fileURLToPath(new URL('./helper.ts', import.meta.url)), [ref.path, ref.repositoryId], {
      serialization: 'advanced',
      stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
      execArgv: [],
    });
    child.on('message', (response: HelperResponse) => {
      const waiting = pending.get(response.id);
      if (waiting === undefined) return;
      pending.delete(response.id);
      clearTimeout(waiting.timer);
      if ('result' in response) waiting.resolve(response.result);
      else waiting.reject(repositoryError(ref, response.error));
    });
    child.on('exit', () => {
      if (child !== helper) return;
      failAll(new HoldfastError('REPOSITORY_FAILED', `The helper process of repository ${ref.name} died.`));
    });
    // Its parent may end while it waits for a NAS.
    child.unref();
    return child;
  };
  const call =
    <Name extends keyof Operations>(operation: Name) =>
    (...args: Parameters<Operations[Name]>): Promise<never> =>
      new Promise((resolve, reject) => {
        const id = ++lastId;
        const deadlineMs = SLOW.includes(operation) ? deadlines.slowDeadlineMs : deadlines.deadlineMs;
        const timer = setTimeout(() => {
          failAll(
            new HoldfastError(
              'REPOSITORY_STALLED',
              `Repository ${ref.name} (${ref.path}) did not answer within ${deadlineMs / 1_000} s. Is the NAS up?`,
            ),
          );
        }, deadlineMs);
        pending.set(id, { resolve: resolve as (result: unknown) => void, reject, timer });
        helper ??= start();
        helper.send({ id, operation, args } satisfies HelperRequest);
      });

  return {
    name: ref.name,
    pathOf: (relative) => `${ref.path.replace(/\/+$/, '')}/${relative}`,
    close: () => {
      failAll(new HoldfastError('REPOSITORY_FAILED', `Repository ${ref.name} was closed.`));
    },
    probe: call('probe'),
    prepare: call('prepare'),
    makeFolder: call('makeFolder'),
    createFile: call('createFile'),
    syncFile: call('syncFile'),
    writeFile: call('writeFile'),
    readFile: call('readFile'),
    fileBytes: call('fileBytes'),
    hasFolder: call('hasFolder'),
    syncFolder: call('syncFolder'),
    renameFolder: call('renameFolder'),
    removeFolder: call('removeFolder'),
  };
}

/** A repository as it may stand in a file: without its credentials. */
export type JournaledRef = Omit<RepositoryRef, 'credentials'>;

export function withoutCredentials(ref: RepositoryRef): JournaledRef {
  const { credentials: _secret, ...journaled } = ref;
  return journaled;
}

function repositoryError(ref: JournaledRef, error: HelperError): HoldfastError {
  const where = `Repository ${ref.name} (${ref.path})`;
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
