import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { mkdir, readdir, utimes, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { LeftoverState } from '@holdfast/proto/holdfast/v1/leftover.ts';
import { backupFolder, partialFolder, probeFile, temporaryFile } from '../repository/layout.ts';
import type { Repository } from '../repository/repository.ts';
import { temporaryDirectory } from '../testing/directory.ts';
import { openLocal } from '../testing/repository.ts';
import { leftInRepository, removeFromRepository } from './inRepository.ts';

const { LEFTOVER_STATE_REMOVABLE, LEFTOVER_STATE_KEPT, LEFTOVER_STATE_UNDECIDED } = LeftoverState;
const { LEFTOVER_STATE_REMOVED } = LeftoverState;
const WEEK_S = 7 * 86_400;

describe('what is left in a repository', () => {
  let directory: Awaited<ReturnType<typeof temporaryDirectory>>;
  let repository: Repository;
  beforeEach(async () => {
    directory = await temporaryDirectory();
    repository = openLocal(directory.path, 'nas');
  });
  afterEach(async () => {
    repository.close();
    await directory[Symbol.asyncDispose]();
  });
  const put = async (path: string, ageS = 0): Promise<void> => {
    const whole = join(directory.path, path);
    await mkdir(dirname(whole), { recursive: true });
    await writeFile(whole, 'x');
    const time = Date.now() / 1_000 - ageS;
    await utimes(whole, time, time);
  };

  it('is what has a temporary name, and nothing else', async () => {
    const [backupId, domain] = [randomUUID(), randomUUID()];
    const folder = backupFolder(domain, new Date(), backupId);
    await put('repository-id');
    await put(`${backupFolder(domain, new Date(), randomUUID())}/manifest.json`);
    await put(`${partialFolder(folder)}/vda.qcow2`);
    await put('i-2-10-VM/2026.01.31.12.00.00.partial/root.qcow2');
    await put('films/holiday.partial/part1.mkv');
    await put('films/cut.partial');
    const [oldProbe, newProbe] = [probeFile(randomUUID()), probeFile(randomUUID())];
    await put(oldProbe, WEEK_S);
    await put(newProbe);
    await put('.holdfast-probe-notes', WEEK_S);
    const key = temporaryFile('zone-keys/zone-1.age', randomUUID());
    await put(key, WEEK_S);
    await put('zone-keys/zone-1.age', WEEK_S);

    const found = await leftInRepository(repository, Date.now());
    assert.deepEqual(
      new Map(found.map(({ name, state }) => [name, state])),
      new Map([
        [partialFolder(folder), LEFTOVER_STATE_UNDECIDED],
        ['i-2-10-VM/2026.01.31.12.00.00.partial', LEFTOVER_STATE_KEPT],
        ['films/holiday.partial', LEFTOVER_STATE_KEPT],
        [oldProbe, LEFTOVER_STATE_REMOVABLE],
        [newProbe, LEFTOVER_STATE_KEPT],
        [key, LEFTOVER_STATE_REMOVABLE],
      ]),
    );
    assert.equal(found.find(({ name }) => name === partialFolder(folder))?.backupId, backupId);
    const removed = await removeFromRepository(repository, found, Date.now());
    const gone = removed.filter(({ state }) => state === LEFTOVER_STATE_REMOVED).map(({ name }) => name);
    assert.deepEqual(gone.sort(), [partialFolder(folder), oldProbe, key].sort());
    const left = await readdir(directory.path, { recursive: true });
    for (const kept of [
      'films/holiday.partial/part1.mkv',
      'films/cut.partial',
      newProbe,
      'zone-keys/zone-1.age',
    ])
      assert.ok(left.includes(kept), kept);
    assert.ok(!left.some((path) => path.includes(backupId)));
  });

  it('is removed only when it is asked for', async () => {
    const folders = [randomUUID(), randomUUID()].map((id) =>
      partialFolder(backupFolder(randomUUID(), new Date(), id)),
    );
    for (const folder of folders) await put(`${folder}/vda.qcow2`);
    const found = await leftInRepository(repository, Date.now());
    const wanted = found.filter(({ name }) => name === folders[0]);
    assert.equal((await removeFromRepository(repository, wanted, Date.now())).length, 1);
    assert.deepEqual(
      (await leftInRepository(repository, Date.now())).map(({ name }) => name),
      [folders[1]],
    );
  });

  it('is not waited for when the repository hangs', async () => {
    const hung: Repository = { ...repository, unfinished: () => new Promise(() => undefined) };
    await assert.rejects(leftInRepository(hung, Date.now(), 20), { reason: 'REPOSITORY_STALLED' });
  });
});
