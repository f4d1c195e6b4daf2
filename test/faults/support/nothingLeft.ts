import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import path from 'node:path';
import type { Holdfast } from '../../harness/holdfast.ts';
import { processesNaming } from '../../harness/leftovers.ts';
import { namesBelow } from '../../harness/namesBelow.ts';
import { until } from '../../lab/deadline.ts';
import { mountsBelow } from '../../lab/directory.ts';
import type { Lab } from '../../lab/lab.ts';

/** Programs that exist only while something is backed up, checked or restored. */
const WORKERS = [
  'runner.ts',
  'thawer.ts',
  'pushEnder.ts',
  'qemu-storage-daemon',
  'qemu-img',
  'nbdinfo',
  'event',
];

/** What a process leaves as it exits may take a moment. */
const LEAVING_MS = 20_000;

/** Throws unless nothing is left of work that has ended. */
export async function nothingLeft(
  lab: Lab,
  holdfast: Holdfast,
  mounts: readonly string[] = [],
): Promise<void> {
  assert.deepEqual(await leftoversAfter(LEAVING_MS, lab, holdfast, mounts), []);
}

/**
 * What is left of work that has ended, once that is nothing or the time is over: partial folders, temporary files and
 * locks, scratch and socket directories, processes, jobs of libvirt, mounts.
 *
 * @param mounts the mounts of the test itself, below the directory of Holdfast
 * @param repository a directory to look at beside the repositories of the zones
 */
export async function leftoversAfter(
  milliseconds: number,
  lab: Lab,
  holdfast: Holdfast,
  mounts: readonly string[] = [],
  repository?: string,
): Promise<readonly string[]> {
  let found: string[] = [];
  await until('Nothing is left', milliseconds, async () => {
    found = await leftovers(lab, holdfast, mounts, repository);
    return found.length === 0 ? true : undefined;
  }).catch((error: unknown) => {
    if (found.length === 0) throw error;
  });
  return found;
}

async function leftovers(
  lab: Lab,
  holdfast: Holdfast,
  mounts: readonly string[],
  other: string | undefined,
): Promise<string[]> {
  const found: string[] = [];
  for (const agent of holdfast.agents) {
    const repositories = [holdfast.repository(agent.zone), ...(other === undefined ? [] : [other])];
    for (const directory of [
      ...repositories,
      agent.scratchDirectory,
      path.join(agent.runtimeDirectory, 'jobs'),
      path.join(agent.runtimeDirectory, 'nbd'),
      path.join(agent.stateDirectory, 'locks'),
    ]) {
      const names = existsSync(directory) ? await namesBelow(directory) : [];
      const isRepository = repositories.includes(directory);
      found.push(
        ...names
          .filter((name) => !isRepository || /\.partial|\.tmp$|holdfast-probe/.test(name))
          .map((name) => path.join(directory, name)),
      );
    }
  }
  for (const { argv } of await processesNaming(lab.directory)) {
    const isWorker = argv.some((argument) => WORKERS.some((name) => path.basename(argument) === name));
    if (isWorker) found.push(argv.join(' '));
  }
  for (const uuid of (await lab.virsh(['list', '--uuid'])).split('\n').filter(Boolean)) {
    const job = await lab.virsh(['domjobinfo', uuid]);
    if (!job.includes('None')) found.push(`libvirt job of ${uuid}: ${job}`);
  }
  const mounted = await mountsBelow(holdfast.directory);
  return [...found, ...mounted.filter((mount) => !mounts.includes(mount))];
}
