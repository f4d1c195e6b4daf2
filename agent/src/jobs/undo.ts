import { readFile, rm, rmdir } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { rbdWith } from '../ceph/rbd.ts';
import { rbdPath, type RbdImage } from '../ceph/rbdImage.ts';
import { thaw } from '../libvirt/freeze.ts';
import { requireNoLostBackup } from '../libvirt/lostBackup.ts';
import { endPullBackup } from '../libvirt/pullBackup.ts';
import type { Virsh } from '../libvirt/virsh.ts';
import { endPushBackup, type PushUndo } from '../transport/endPushBackup.ts';
import { killStorageDaemon, stopStorageDaemon } from '../qemu/storageDaemon.ts';
import { inodeOf } from '../process/inode.ts';
import { lazyText, unmountUnused } from '../mount/unmount.ts';
import { placeAt, type MountPlace } from '../mount/place.ts';
import type { JournaledRef, Repository } from '../repository/repository.ts';
import type { Journal, JournalEntry } from './journal.ts';

/**
 * What must be undone when a job ends, however it ends. Written to the journal before the thing is made, so that
 * whoever finds the journal of a killed job can undo it too. Every action may run twice and may find nothing.
 */
export type UndoAction =
  | { readonly kind: 'remove-local'; readonly path: string }
  /** One that holds something stays. */
  | { readonly kind: 'remove-empty-folder'; readonly path: string }
  | { readonly kind: 'release-lock'; readonly path: string; readonly owner: string }
  /** Takes back the final names of files that still have their temporary ones; another file of the name stays. */
  | { readonly kind: 'unlink'; readonly links: readonly FileLink[] }
  | { readonly kind: 'remove-folder'; readonly repository: JournaledRef; readonly folder: string }
  /** Unmounts what is mounted at a place, unless another process uses it. */
  | { readonly kind: 'unmount'; readonly directory: string }
  | { readonly kind: 'stop-storage-daemon'; readonly directory: string }
  | {
      readonly kind: 'end-pull-backup';
      readonly domainUuid: string;
      readonly socket: string;
      /** Where QEMU keeps what the guest overwrites; not in journals of earlier versions. */
      readonly scratchDirectory?: string;
    }
  /** Ends a push backup whatever hangs, and the two daemons and the mounts that it writes through. */
  | { readonly kind: 'end-push-backup'; readonly push: PushUndo }
  | { readonly kind: 'thaw'; readonly domainUuid: string }
  /** `directory` is on tmpfs, for the file with the cluster's key. */
  | {
      readonly kind: 'remove-rbd-snapshot';
      readonly image: RbdImage;
      readonly snapshot: string;
      readonly directory: string;
    }
  /** With an id only when the image still is that one: another of the same name stays. */
  | {
      readonly kind: 'remove-rbd-image';
      readonly image: RbdImage;
      readonly id: string | undefined;
      readonly directory: string;
    };

/** A file under two names. */
export interface FileLink {
  readonly temporary: string;
  readonly final: string;
}

/** Something that was promised to be undone. */
export interface Undoing {
  /** Undoes it now. */
  now(): Promise<void>;
  /** It is not to be undone any more: it has become part of the result. */
  forget(): Promise<void>;
}

export interface UndoLog {
  /** Promises to undo something that is about to be made. */
  promise(action: UndoAction): Promise<Undoing>;
  /** Marks a point: what is promised from now on can be undone without what was promised before. */
  mark(): number;
  /**
   * Undoes all that is left, the latest first. One that fails does not keep the others from being undone.
   *
   * @param since only what was promised after this mark
   * @returns what could not be undone.
   */
  all(since?: number): Promise<readonly { readonly action: UndoAction; readonly error: unknown }[]>;
}

/** With what things are undone. */
export interface UndoTools {
  readonly virsh: Virsh;
  readonly openRepository: (ref: JournaledRef) => Repository;
  /** Told what was undone in another way than it should be. */
  readonly tell: (note: string) => void;
  /** Whether what hangs is to be left for later. */
  readonly isHurried?: () => boolean;
}

/** The undo log of a job, with what an earlier process of it left in the journal. */
export function undoLog(journal: Journal, entries: readonly JournalEntry[], tools: UndoTools): UndoLog {
  const open = new Map(pendingUndo(entries).map(({ id, action }) => [id, action]));
  let lastId = Math.max(0, ...entries.map((entry) => (entry.kind === 'undo' ? entry.id : 0)));

  const close = async (id: number): Promise<void> => {
    open.delete(id);
    await journal.append({ kind: 'undone', id });
  };
  const undoOne = async (id: number, action: UndoAction): Promise<void> => {
    if (!open.has(id)) return;
    await perform(action, tools);
    await close(id);
  };
  return {
    promise: async (action) => {
      const id = ++lastId;
      open.set(id, action);
      await journal.append({ kind: 'undo', id, action });
      return { now: () => undoOne(id, action), forget: () => close(id) };
    },
    mark: () => lastId,
    all: async (since = 0) => {
      const failed = [];
      for (const [id, action] of [...open].reverse().filter(([made]) => made > since)) {
        try {
          await undoOne(id, action);
        } catch (error) {
          failed.push({ action, error });
        }
      }
      return failed;
    },
  };
}

/** What a journal promised to undo and did not, in the order in which it was promised. */
export function pendingUndo(
  entries: readonly JournalEntry[],
): readonly { readonly id: number; readonly action: UndoAction }[] {
  const done = new Set(entries.filter((entry) => entry.kind === 'undone').map((entry) => entry.id));
  return entries.filter((entry) => entry.kind === 'undo').filter((entry) => !done.has(entry.id));
}

/** In words, for warnings. */
export function describeUndo(action: UndoAction): string {
  switch (action.kind) {
    case 'remove-local':
    case 'remove-empty-folder':
      return `remove ${action.path}`;
    case 'release-lock':
      return `release ${action.path}`;
    case 'unlink':
      return `remove ${action.links.map((link) => link.final).join(', ')}`;
    case 'remove-folder':
      return `remove ${action.folder} from repository ${action.repository.name}`;
    case 'unmount':
      return `unmount ${placeAt(action.directory).point}`;
    case 'stop-storage-daemon':
      return `end the qemu-storage-daemon of ${action.directory}`;
    case 'end-pull-backup':
      return `end libvirt's backup job of domain ${action.domainUuid}`;
    case 'end-push-backup':
      return `end libvirt's backup job of domain ${action.push.domainUuid} and unmount its targets`;
    case 'thaw':
      return `thaw domain ${action.domainUuid}`;
    case 'remove-rbd-snapshot':
      return `remove the snapshot ${action.snapshot} of RBD image ${rbdPath(action.image)}`;
    case 'remove-rbd-image':
      return `remove the RBD image ${rbdPath(action.image)}`;
  }
}

/**
 * How long a job that somebody wants to end waits for what may hang, in milliseconds; what is not named is waited for. What
 * was not undone is tried again by the agent.
 */
const HURRIED_MS: Partial<Record<UndoAction['kind'], number>> = {
  'stop-storage-daemon': 1_000,
  'remove-folder': 3_000,
  'end-pull-backup': 3_000,
};

async function perform(action: UndoAction, tools: UndoTools): Promise<void> {
  const work = performFully(action, tools);
  const deadlineMs = HURRIED_MS[action.kind];
  if (deadlineMs === undefined || tools.isHurried?.() !== true) return work;
  const late = new AbortController();
  try {
    await Promise.race([
      work,
      sleep(deadlineMs, undefined, { signal: late.signal }).then(() => {
        throw new Error(`It did not answer within ${deadlineMs / 1_000} s.`);
      }),
    ]);
  } finally {
    late.abort();
  }
}

async function performFully(action: UndoAction, { virsh, openRepository, tell }: UndoTools): Promise<void> {
  switch (action.kind) {
    case 'remove-local':
      await rm(action.path, { recursive: true, force: true });
      return;
    case 'remove-empty-folder':
      await rmdir(action.path).catch((error: unknown) => {
        const { code = '' } = error as NodeJS.ErrnoException;
        if (!['ENOENT', 'ENOTEMPTY', 'EEXIST'].includes(code)) throw error;
      });
      return;
    case 'release-lock':
      // Another job may hold it by now, or may have held it all the time.
      if ((await readFile(action.path, 'utf8').catch(() => '')) === action.owner) await rm(action.path);
      await rm(`${action.path}.${action.owner}`, { force: true });
      return;
    case 'unlink':
      for (const { temporary, final } of action.links) {
        const [ours, there] = await Promise.all([inodeOf(temporary), inodeOf(final)]);
        if (there !== undefined && there === ours) await rm(final);
      }
      return;
    case 'remove-folder': {
      const repository = openRepository(action.repository);
      try {
        // A repository that does not answer is found out sooner by a question than by a removal.
        if (await repository.hasFolder(action.folder)) await repository.removeFolder(action.folder);
      } finally {
        repository.close();
        // When it was mounted only for this, the job's own promise to unmount it has been kept before.
        if (repository.mount !== undefined) await unmount(repository.mount, tell);
      }
      return;
    }
    case 'unmount':
      await unmount(placeAt(action.directory), tell);
      return;
    case 'stop-storage-daemon':
      // Whatever it has written is removed.
      await killStorageDaemon(action.directory);
      await stopStorageDaemon(action.directory);
      return;
    case 'end-pull-backup':
      await endPullBackup(virsh, action.domainUuid, action.socket, action.scratchDirectory);
      await requireNoLostBackup(virsh, action.domainUuid);
      return;
    case 'end-push-backup':
      await endPushBackup(virsh, action.push);
      await requireNoLostBackup(virsh, action.push.domainUuid);
      return;
    case 'thaw':
      await thaw(virsh, action.domainUuid);
      return;
    case 'remove-rbd-snapshot':
      await rbdWith(virsh, action.directory).removeSnapshot(action.image, action.snapshot);
      return;
    case 'remove-rbd-image': {
      const rbd = rbdWith(virsh, action.directory);
      const found = await rbd.find(action.image);
      if (found !== undefined && (action.id === undefined || found.id === action.id))
        await rbd.remove(action.image);
      return;
    }
  }
}

async function unmount(place: MountPlace, tell: UndoTools['tell']): Promise<void> {
  if ((await unmountUnused(place)) === 'lazily') tell(lazyText(place));
}
