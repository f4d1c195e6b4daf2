import { createHash, randomUUID } from 'node:crypto';
import { join } from 'node:path';
import type { RepositoryPlace } from '@holdfast/common/repository.ts';
import { isUuid } from '@holdfast/common/uuid.ts';
import type { RepositoryCredentials } from '@holdfast/proto/holdfast/v1/repository.ts';

/**
 * Where a repository is mounted on this host, one place for all processes of the agent:
 *
 *     <runtime directory>/mounts/<key>/fs     the mount point
 *     <runtime directory>/mounts/<key>/users  locked, shared, by each process that uses the mount
 *     <runtime directory>/mounts/<key>/turn   locked by the one that mounts
 */
export interface MountPlace {
  readonly directory: string;
  readonly point: string;
  readonly users: string;
  readonly turn: string;
}

/** A mount that is shared with nobody, to prove an address and its credentials. */
const PRIVATE_PREFIX = 'private-';

/** The place of what is mounted with the same options for the same user. */
export function mountPlace(
  mountsDirectory: string,
  { type, address, mountOptions }: Omit<RepositoryPlace, 'path'>,
  credentials: Pick<RepositoryCredentials, 'username' | 'domain'> | undefined,
): MountPlace {
  const user = [credentials?.username ?? '', credentials?.domain ?? ''];
  const key = createHash('sha256')
    .update(JSON.stringify([type, address, mountOptions, user]))
    .digest('hex');
  return placeAt(join(mountsDirectory, key.slice(0, 16)));
}

export function privateMountPlace(mountsDirectory: string): MountPlace {
  return placeAt(join(mountsDirectory, `${PRIVATE_PREFIX}${randomUUID()}`));
}

export function isPrivate(place: MountPlace): boolean {
  return (place.directory.split('/').at(-1) ?? '').startsWith(PRIVATE_PREFIX);
}

/** Whether a name in the mounts directory is that of a place. */
export function isPlaceName(name: string): boolean {
  return name.startsWith(PRIVATE_PREFIX)
    ? isUuid(name.slice(PRIVATE_PREFIX.length))
    : /^[0-9a-f]{16}$/.test(name);
}

/** The place that is kept in a directory. */
export function placeAt(directory: string): MountPlace {
  return {
    directory,
    point: join(directory, 'fs'),
    users: join(directory, 'users'),
    turn: join(directory, 'turn'),
  };
}
