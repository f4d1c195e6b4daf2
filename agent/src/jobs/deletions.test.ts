import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { mkdir, readdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { RepositoryRef } from '@holdfast/proto/holdfast/agent/v1/agent.ts';
import { backupFolder } from '../repository/layout.ts';
import type { Repositories } from '../repository/repositories.ts';
import type { Repository } from '../repository/repository.ts';
import { temporaryDirectory } from '../testing/directory.ts';
import { openLocal } from '../testing/repository.ts';
import { deletionsIn, type Deletions } from './deletions.ts';

/** A repository that hangs in one of its calls: that lets go of nothing, as a NAS does. */
function hangingIn(repository: Repository, call: 'recognize' | 'removeFolder'): Repository {
  return { ...repository, [call]: () => new Promise(() => undefined) };
}

describe('deletions', () => {
  let directory: Awaited<ReturnType<typeof temporaryDirectory>>;
  let hanging: 'recognize' | 'removeFolder' | undefined;
  let deletions: Deletions;
  let backupId: string;
  let path: string;
  beforeEach(async () => {
    directory = await temporaryDirectory();
    hanging = undefined;
    backupId = randomUUID();
    path = backupFolder(randomUUID(), new Date(), backupId);
    await mkdir(join(directory.path, path), { recursive: true });
    await writeFile(join(directory.path, path, 'vda.qcow2'), 'an image');
    const useAlone: Repositories['useAlone'] = async (_ref, deadlines, work) => {
      const repository = openLocal(directory.path, 'r', { deadlines });
      try {
        return await work(hanging === undefined ? repository : hangingIn(repository, hanging));
      } finally {
        repository.close();
      }
    };
    deletions = deletionsIn({ useAlone });
  });
  afterEach(() => directory[Symbol.asyncDispose]());

  const run = (more: { timeoutMinutes?: number; onlyBegun?: boolean } = {}) =>
    deletions.run(RepositoryRef.fromPartial({ name: 'r', path: directory.path }), {
      ...{ backupId, path, timeoutMinutes: 0, onlyBegun: false },
      ...more,
    });
  const left = async (): Promise<readonly string[]> =>
    (await readdir(directory.path, { recursive: true, withFileTypes: true }))
      .filter((entry) => entry.isFile())
      .map((entry) => join(entry.parentPath, entry.name).slice(directory.path.length + 1));
  /** Waits until the backup is out of its place. */
  const renamed = async (): Promise<void> => {
    while ((await left()).some((name) => name.startsWith(`${path}/`)))
      await new Promise((resolve) => setTimeout(resolve, 5));
  };

  it('are done, and finished when they were begun', async () => {
    assert.ok((await run()).freedBytes > 0n);
    assert.deepEqual(await left(), []);
    assert.deepEqual(await run({ onlyBegun: true }), { freedBytes: 0n });
    await mkdir(join(directory.path, `${path}.partial`), { recursive: true });
    await writeFile(join(directory.path, `${path}.partial`, 'vda.qcow2'), 'an image');
    assert.ok((await run({ onlyBegun: true })).freedBytes > 0n);
    assert.deepEqual(await left(), []);
    assert.equal(deletions.cancel(backupId), false);
  });

  it('that were not begun are not, when only what was begun is to be finished', async () => {
    await assert.rejects(run({ onlyBegun: true }), { reason: 'CANCELLED', metadata: { backup: backupId } });
    assert.deepEqual(await left(), [`${path}/vda.qcow2`]);
  });

  it('are cancelled at once before their point of no return, though the repository hangs', async () => {
    hanging = 'recognize';
    const ended = assert.rejects(run(), { reason: 'CANCELLED', metadata: { backup: backupId } });
    const startMs = performance.now();
    assert.equal(deletions.cancel(backupId), false);
    await ended;
    assert.ok(performance.now() - startMs < 2_000);
    assert.deepEqual(await left(), [`${path}/vda.qcow2`]);
    hanging = undefined;
    await run();
    assert.deepEqual(await left(), []);
  });

  it('are waited for, not done twice, and cancelled by whoever wants only what was begun', async () => {
    hanging = 'recognize';
    const both = [run(), run()].map((each) => assert.rejects(each, { reason: 'CANCELLED' }));
    await assert.rejects(run({ onlyBegun: true }), { reason: 'CANCELLED' });
    await Promise.all(both);
    assert.deepEqual(await left(), [`${path}/vda.qcow2`]);
  });

  it('go on after their point of no return, and are TIMED_OUT when nothing moves', async () => {
    hanging = 'removeFolder';
    const timedOut = assert.rejects(
      run({ timeoutMinutes: 0.02 }),
      (error: { reason: string; message: string }) => {
        assert.equal(error.reason, 'TIMED_OUT');
        assert.match(error.message, /delete it again/);
        return true;
      },
    );
    await renamed();
    assert.equal(deletions.cancel(backupId), true);
    await timedOut;
    assert.deepEqual(await left(), [`${path}.partial/vda.qcow2`]);
    hanging = undefined;
    await run();
    assert.deepEqual(await left(), []);
  });
});
