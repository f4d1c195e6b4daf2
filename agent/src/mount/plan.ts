import type { RepositoryPlace } from '@holdfast/common/repository.ts';
import type { RepositoryCredentials } from '@holdfast/proto/holdfast/v1/repository.ts';
import type { RunResult } from '../process/run.ts';
import type { MountPlace } from './place.ts';

/** What is mounted, and with what. */
export interface MountSource extends Omit<RepositoryPlace, 'mountOptions'> {
  readonly mountOptions: readonly string[];
  readonly credentials?: RepositoryCredentials | undefined;
}

/** How something is mounted. */
export interface MountPlan {
  /** What the kernel then calls its file system, such as nfs4. */
  readonly fileSystems: readonly string[];
  /** Mounts it. Secrets go through pipes, or a file in the place's directory that is gone when this returns. */
  mount(place: MountPlace): Promise<RunResult>;
}

/** One try of mount(8); whoever asks waits a little longer. */
export const MOUNT_DEADLINE_MS = 30_000;
