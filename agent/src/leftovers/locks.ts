import { readdir, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { isUuid } from '@holdfast/common/uuid.ts';
import { LeftoverKind } from '@holdfast/proto/holdfast/v1/leftover.ts';
import { kept, ofDeadJob, type Found, type LookParts } from './found.ts';

const KIND = LeftoverKind.LEFTOVER_KIND_LOCK;

/** Locks on domains whose jobs are dead. */
export async function locksLeft({ roots, jobs }: LookParts): Promise<Found[]> {
  const found: Found[] = [];
  for (const name of await readdir(roots.locks).catch(() => [])) {
    const path = join(roots.locks, name);
    const owner = await lockOwner(path);
    if (owner === undefined) continue;
    if (!isUuid(owner)) found.push(kept(KIND, path, 'No job is named in it, so it is not of Holdfast.'));
    else if (!(await jobs.isAtWork(owner)))
      found.push(ofDeadJob(KIND, path, owner, () => releaseLock(path, owner)));
  }
  return found;
}

/** What stands in a lock: the id of its job; undefined without a lock. */
export async function lockOwner(path: string): Promise<string | undefined> {
  return readFile(path, 'utf8').catch(() => undefined);
}

/** Another job may have it by now. */
async function releaseLock(path: string, owner: string): Promise<void> {
  if ((await lockOwner(path)) === owner) await rm(path, { force: true });
}
