import { readdir } from 'node:fs/promises';
import { join, relative } from 'node:path';
import { lockAlone } from '@holdfast/common/fileLock.ts';
import { isUuid } from '@holdfast/common/uuid.ts';
import { LeftoverKind } from '@holdfast/proto/holdfast/v1/leftover.ts';
import { isPlaceName, placeAt } from '../mount/place.ts';
import { mountAt, mountsBelow } from '../mount/table.ts';
import { unmountUnused } from '../mount/unmount.ts';
import { forceUnmount } from '../process/mounts.ts';
import { kept, ofDeadJob, type Found, type LookParts } from './found.ts';

const KIND = LeftoverKind.LEFTOVER_KIND_MOUNT;

/** What is mounted below the agent's runtime directory and nobody uses. Asks the kernel only: no mount is touched. */
export async function mountsLeft(parts: LookParts): Promise<Found[]> {
  const { roots, runtimeDirectory, mountsDirectory, jobs } = parts;
  const found: Found[] = [];
  const own = new Set<string>();
  for (const name of (await readdir(mountsDirectory).catch(() => [])).filter(isPlaceName)) {
    const place = placeAt(join(mountsDirectory, name));
    own.add(place.point);
    if ((await mountAt(place.point)) === undefined) continue;
    // Every process that uses it has the lock, and loses it when it ends in any way.
    const lock = lockAlone(place.users);
    lock?.release();
    if (lock === undefined) continue;
    const remove = async (): Promise<void> => {
      if ((await unmountUnused(place)) === 'used') throw new Error('Another process has begun to use it.');
    };
    found.push(ofDeadJob(KIND, place.point, '', remove, 'No process uses this mount of a repository.'));
  }
  for (const { point } of await mountsBelow(runtimeDirectory)) {
    const [jobId = '', ...rest] = relative(roots.sockets, point).split('/');
    if (isUuid(jobId) && rest.length === 1) {
      if (!(await jobs.isAtWork(jobId))) found.push(ofDeadJob(KIND, point, jobId, () => forceUnmount(point)));
    } else if (!own.has(point)) {
      found.push(kept(KIND, point, 'It is not at a place where Holdfast mounts anything.'));
    }
  }
  return found;
}
