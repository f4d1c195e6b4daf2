import { RepositoryType, type Repository } from '@holdfast/proto/holdfast/v1/repository.ts';
import type { Need } from './placement.ts';

/** What mounts a repository of each type. */
const FEATURES: Readonly<Partial<Record<RepositoryType, string>>> = {
  [RepositoryType.REPOSITORY_TYPE_NFS]: 'repository.nfs',
  [RepositoryType.REPOSITORY_TYPE_CIFS]: 'repository.cifs',
  [RepositoryType.REPOSITORY_TYPE_CEPH]: 'repository.ceph',
};

/** What work on a repository asks of its host. */
export function needOf({ type }: Pick<Repository, 'type'>, label: string, preferred: string): Need {
  return { feature: FEATURES[type] ?? '', label, preferred };
}
