import { readdir, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { isUuid } from '@holdfast/common/uuid.ts';
import { LeftoverKind } from '@holdfast/proto/holdfast/v1/leftover.ts';
import { jobFiles } from '../jobs/spec.ts';
import { mountsBelow } from '../mount/table.ts';
import { kept, ofDeadJob, type Found, type LookParts } from './found.ts';

/** The directories that jobs have for scratch images and sockets, and those with a journal that was never begun. */
export async function directoriesLeft(parts: LookParts): Promise<Found[]> {
  const { roots, jobs } = parts;
  const found = [
    ...(await directoriesIn(parts, roots.scratch, LeftoverKind.LEFTOVER_KIND_SCRATCH)),
    ...(await directoriesIn(parts, roots.sockets, LeftoverKind.LEFTOVER_KIND_SOCKET_DIRECTORY)),
    ...(await directoriesIn(parts, roots.runtime, LeftoverKind.LEFTOVER_KIND_SOCKET_DIRECTORY)),
  ];
  for (const jobId of await namesIn(roots.jobs)) {
    const path = join(roots.jobs, jobId);
    if (!isUuid(jobId) || (await jobs.isAtWork(jobId))) continue;
    if ((await stat(jobFiles(path).spec).catch(() => undefined)) !== undefined) continue;
    const reason = `Job ${jobId} was killed before it had begun.`;
    const remove = () => removeTree(path);
    found.push(ofDeadJob(LeftoverKind.LEFTOVER_KIND_UNFINISHED_JOB, path, jobId, remove, reason));
  }
  return found;
}

async function directoriesIn({ jobs }: LookParts, root: string, kind: LeftoverKind): Promise<Found[]> {
  const found: Found[] = [];
  for (const name of await namesIn(root)) {
    const path = join(root, name);
    if (!isUuid(name)) {
      found.push(kept(kind, path, 'It is not named after a job, so it is not of Holdfast.'));
    } else if (!(await jobs.isAtWork(name))) {
      found.push(ofDeadJob(kind, path, name, () => removeTree(path)));
    }
  }
  return found;
}

async function namesIn(directory: string): Promise<readonly string[]> {
  return readdir(directory).catch((error: unknown) => {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return [];
    throw error;
  });
}

/** Removes a directory, and never through a mount into somebody's data. */
async function removeTree(path: string): Promise<void> {
  const [mount] = await mountsBelow(path);
  if (mount !== undefined) throw new Error(`${mount.point} is still mounted.`);
  await rm(path, { recursive: true, force: true });
}
