/**
 * The program that touches a repository: one process for each repository, because a call into a hung NAS never comes
 * back and would take its whole process with it. Speaks over the IPC channel of child_process.fork: it is told first
 * what to open, credentials included, and mounts it with the first call.
 */
import { constants } from 'node:os';
import type { Reason } from '@holdfast/common/reasons.ts';
import type { MountPlace } from '../mount/place.ts';
import type { MountSource } from '../mount/plan.ts';
import { requireRepositoryId } from './identity.ts';
import { operationsOn, type Operations } from './operations.ts';
import { RepositoryProblem } from './problem.ts';

/** What a helper works on. */
export interface HelperRoot {
  /** The repository's directory, which is the mount point of one that is mounted. */
  readonly path: string;
  /** What its id file must say; empty: not compared. */
  readonly repositoryId: string;
  /** What to mount, and where; undefined for a local one. */
  readonly mount: { readonly source: MountSource; readonly place: MountPlace } | undefined;
}

/** One call. */
export interface HelperRequest {
  readonly id: number;
  readonly operation: keyof Operations;
  readonly args: readonly unknown[];
}

/** Its answer, or, once, that it has started: a call's deadline begins then. */
export type HelperResponse =
  | { readonly started: true }
  | { readonly id: number; readonly result: unknown }
  | { readonly id: number; readonly error: HelperError };

/** An error as it goes over IPC: with the reason of a RepositoryProblem, or the code of one of the system. */
export interface HelperError {
  readonly reason: Reason | undefined;
  readonly code: string;
  readonly message: string;
}

if (process.send === undefined) throw new Error('started by the agent only');
const answer = (response: HelperResponse): boolean | undefined => process.send?.(response);
let root: HelperRoot | undefined;
let opened: Promise<Opened> | undefined;

process.on('message', (message: HelperRoot | HelperRequest) => {
  if ('path' in message) {
    root = message;
    return;
  }
  perform(message).then(
    (result) => answer({ id: message.id, result }),
    (error: unknown) => {
      const { code = '' } = error as NodeJS.ErrnoException;
      const text = messageOf(error as NodeJS.ErrnoException);
      const reason = error instanceof RepositoryProblem ? error.reason : undefined;
      return answer({ id: message.id, error: { reason, code, message: text } });
    },
  );
});
// The parent is gone, and with it the only one who could ask.
process.on('disconnect', () => process.exit(0));
answer({ started: true });

/** Node knows no word for some errors of the system, above all ESTALE, which is a NAS's own. */
function messageOf({ errno = 0, message }: NodeJS.ErrnoException): string {
  const [name] = Object.entries(constants.errno).find(([, number]) => number === -errno) ?? [];
  return name === undefined ? message : message.replaceAll(`Unknown system error ${errno}`, name);
}

interface Opened {
  readonly operations: Operations;
  /** Throws when the path does not lead into the repository any more. */
  readonly require: () => Promise<void>;
}

async function perform({ operation, args }: HelperRequest): Promise<unknown> {
  if (root === undefined) throw new Error('nothing to open');
  const started = (opened ??= open(root));
  const { operations, require } = await started.catch((error: unknown) => {
    // The next call tries again.
    if (opened === started) opened = undefined;
    throw error;
  });
  await require();
  const call = operations as unknown as Record<string, (...args: readonly unknown[]) => Promise<unknown>>;
  if (call[operation] === undefined) throw new Error('no such operation');
  return call[operation](...args);
}

async function open({ path, repositoryId, mount }: HelperRoot): Promise<Opened> {
  const require = mount && (await openMount(mount));
  if (repositoryId !== '') await requireRepositoryId(path, repositoryId);
  return { operations: operationsOn(path, repositoryId), require: require ?? (() => Promise.resolve()) };
}

async function openMount({ source, place }: NonNullable<HelperRoot['mount']>): Promise<() => Promise<void>> {
  // Loaded when it is needed: a helper on a local directory starts in no time.
  const { ensureMounted, mountPlan, requireMounted } = await import('../mount/mount.ts');
  const device = await ensureMounted(place, mountPlan(source));
  return () => requireMounted(place.point, device);
}
