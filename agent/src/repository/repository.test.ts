import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { chmod, mkdir, readdir, readFile, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { processesWithArgument } from '../process/identity.ts';
import { temporaryDirectory } from '../testing/directory.ts';
import { openLocal } from '../testing/repository.ts';
import { output, smallFileSystem } from '../testing/mount.ts';
import { watchRepository, type LivenessChange, type WatchedRepository } from './liveness.ts';
import type { Repository } from './repository.ts';

describe('a repository', () => {
  let directory: Awaited<ReturnType<typeof temporaryDirectory>>;
  let opened: Repository[];
  beforeEach(async () => {
    directory = await temporaryDirectory();
    opened = [];
  });
  afterEach(async () => {
    for (const repository of opened) repository.close();
    await directory[Symbol.asyncDispose]();
  });
  const at = (name: string): string => join(directory.path, name);
  function open(path = directory.path, name = 'nas'): Repository {
    const repository = openLocal(path, name);
    opened.push(repository);
    return repository;
  }

  it('writes, reads, renames and removes, under any name', async () => {
    const path = at('sp ace, "quo\'te" ö\n=');
    await mkdir(path);
    const repository = open(path);
    assert.ok((await repository.probe()).freeBytes > 0);
    await repository.makeFolder('a/b.partial');
    const content = Buffer.from([0, 255, 10]);
    await repository.writeFile('a/b.partial/file', content);
    await repository.createFile('a/b.partial/image');
    await writeFile(repository.pathOf('a/b.partial/image'), 'x'.repeat(5_000));
    assert.deepEqual(await repository.syncFile('a/b.partial/image'), { bytes: 5_000 });
    await repository.renameFolder('a/b.partial', 'a/b');
    // The answer to the first was lost on its way; it is asked again.
    await repository.renameFolder('a/b.partial', 'a/b');
    assert.equal(await repository.hasFolder('a/b.partial'), false);
    assert.equal(await repository.fileBytes('a/b/image'), 5_000);
    assert.deepEqual(Buffer.from((await repository.readFile('a/b/file', 10)) ?? []), content);
    assert.equal((await repository.removeFolder('a/b')).freedBytes > 5_000, true);
    assert.deepEqual(await repository.removeFolder('a/b'), { freedBytes: 0 });
    assert.equal(await repository.readFile('a/b/file', 10), undefined);
    assert.deepEqual(await readdir(path), ['a']);
  });

  it('replaces a file in one step and leaves no temporary one', async () => {
    const repository = open();
    for (const text of ['one', 'two']) await repository.writeFile('f', Buffer.from(text));
    assert.equal(await readFile(at('f'), 'utf8'), 'two');
    assert.deepEqual(await readdir(directory.path), ['f']);
  });

  it('has nothing of a folder in memory any more when that was dropped', async () => {
    const repository = open();
    const path = at('folder');
    await mkdir(path);
    await writeFile(join(path, 'image'), Buffer.alloc(1_048_576, 'x'), { flush: true });
    const residentBytes = async (): Promise<number> =>
      Number(await output('fincore', ['--bytes', '--noheadings', '--output', 'RES', join(path, 'image')]));
    await readFile(join(path, 'image'));
    assert.equal(await residentBytes(), 1_048_576);
    await repository.dropCache('folder');
    assert.equal(await residentBytes(), 0);
    await repository.dropCache('none');
  });

  it('does not take over a file that is there', async () => {
    const repository = open();
    await writeFile(at('image'), 'of another');
    await assert.rejects(repository.createFile('image'), { reason: 'REPOSITORY_FAILED' });
    assert.equal(await readFile(at('image'), 'utf8'), 'of another');
  });

  it('lets nothing lead out of it', async () => {
    await mkdir(at('inside'));
    await writeFile(at('outside'), 'secret');
    const repository = open(at('inside'));
    for (const path of ['../outside', '/etc/passwd', 'a/../../outside', '..', './../outside']) {
      await assert.rejects(repository.readFile(path, 100), { reason: 'REPOSITORY_FAILED' }, path);
      await assert.rejects(
        repository.writeFile(path, Buffer.from('')),
        { reason: 'REPOSITORY_FAILED' },
        path,
      );
      await assert.rejects(repository.removeFolder(path), { reason: 'REPOSITORY_FAILED' }, path);
    }
    assert.equal(await readFile(at('outside'), 'utf8'), 'secret');
  });

  it('is not itself removed', async () => {
    await writeFile(at('precious'), '');
    const repository = open();
    for (const path of ['', '.', 'a/..']) {
      await assert.rejects(repository.removeFolder(path), { reason: 'REPOSITORY_FAILED' }, path);
    }
    assert.deepEqual(await readdir(directory.path), ['precious']);
  });

  it('removes a folder with whatever is in it, links included but not what they lead to', async () => {
    await mkdir(at('kept'));
    await writeFile(at('kept/file'), '');
    await mkdir(at('doomed/below'), { recursive: true });
    await symlink(at('kept'), at('doomed/link'));
    await symlink(at('nowhere'), at('doomed/dangling'));
    await open().removeFolder('doomed');
    assert.deepEqual(await readdir(directory.path), ['kept']);
    assert.deepEqual(await readdir(at('kept')), ['file']);
  });

  it('refuses to read a file that is too long', async () => {
    await writeFile(at('long'), 'x'.repeat(11));
    await assert.rejects(open().readFile('long', 10), {
      reason: 'REPOSITORY_FAILED',
      message: /longer than 10/,
    });
  });

  it('that is not there, or is a file, is unusable', async () => {
    await writeFile(at('file'), '');
    await assert.rejects(open(at('none')).probe(), { reason: 'REPOSITORY_UNUSABLE', message: /not there/ });
    await assert.rejects(open(at('file')).probe(), {
      reason: 'REPOSITORY_UNUSABLE',
      message: /not a directory/,
    });
    await assert.rejects(open(at('file/below')).probe(), { reason: 'REPOSITORY_UNUSABLE' });
  });

  it('that is read-only is unusable, and that is full is full', async () => {
    await using _readOnly = await smallFileSystem(at('ro'), 'size=1M,ro');
    await assert.rejects(open(at('ro')).probe(), {
      reason: 'REPOSITORY_UNUSABLE',
      message: /cannot be written/,
    });
    // What reads only does not mind.
    await open(at('ro')).recognize();
    await using _full = await smallFileSystem(at('full'), 'size=1M');
    const repository = open(at('full'));
    await repository.probe();
    await assert.rejects(repository.writeFile('big', Buffer.alloc(2_000_000)), { reason: 'REPOSITORY_FULL' });
    assert.deepEqual(await readdir(at('full')), []);
    await repository.writeFile('most', Buffer.alloc(1_000_000));
    await assert.rejects(repository.probe(), { reason: 'REPOSITORY_FULL' });
    await repository.recognize();
    assert.deepEqual(await readdir(at('full')), ['most']);
  });

  it('that may not be written to is unusable', async () => {
    // Root passes over modes, and not over attributes.
    await mkdir(at('immutable'));
    await output('chattr', ['+i', at('immutable')]);
    try {
      await assert.rejects(open(at('immutable')).probe(), { reason: 'REPOSITORY_UNUSABLE' });
    } finally {
      await output('chattr', ['-i', at('immutable')]);
    }
    await chmod(directory.path, 0o700);
  });

  it('fails a call to a helper that has died a moment ago, and goes on with a new one', async () => {
    const repository = open();
    await repository.probe();
    const pid = await helperOf(directory.path);
    process.kill(pid, 'SIGKILL');
    // Without a turn of the event loop, which would hear of it.
    while (/^State:\t[^ZX]/m.test(readFileSync(`/proc/${pid}/status`, 'utf8')));
    await assert.rejects(repository.probe(), { reason: 'REPOSITORY_FAILED' });
    await repository.probe();
  });

  it('fails its calls when its helper is killed, and goes on with a new one', async () => {
    const repository = open();
    await repository.probe();
    const pid = await helperOf(directory.path);
    process.kill(pid, 'SIGSTOP');
    const calls = [repository.probe(), repository.hasFolder('x')];
    process.kill(pid, 'SIGKILL');
    for (const call of calls) await assert.rejects(call, { reason: 'REPOSITORY_FAILED', message: /died/ });
    assert.equal(await repository.hasFolder('x'), false);
  });

  it('that hangs is stalled, while others go on, and works again once it answers', async () => {
    await mkdir(at('hung'));
    await mkdir(at('well'));
    const deadlines = { deadlineMs: 500, slowDeadlineMs: 500, answerDeadlineMs: 500 };
    const hung = openLocal(at('hung'), 'hung', { deadlines });
    opened.push(hung);
    // A new helper has half a second to start, which a busy machine may not give it.
    while ((await hung.hasFolder('x').catch(() => undefined)) === undefined);
    process.kill(await helperOf(at('hung')), 'SIGSTOP');
    const stalled = assert.rejects(hung.hasFolder('x'), { reason: 'REPOSITORY_STALLED' });
    const well = open(at('well'), 'well');
    for (let count = 0; count < 20; count++) await well.hasFolder('x');
    await stalled;
    // It was killed, which takes effect when the machine has time.
    while ((await processesWithArgument(at('hung'))).length > 0);
    while ((await hung.hasFolder('x').catch(() => undefined)) === undefined);
  });

  describe('that is watched', () => {
    /** Stalled after a second, and given up `waitMs` later. */
    function watched(waitMs: number, signal = new AbortController().signal) {
      const deadlines = { deadlineMs: 60_000, slowDeadlineMs: 60_000, answerDeadlineMs: 1_000 + waitMs };
      const told: LivenessChange[] = [];
      const repository = watchRepository(openLocal(directory.path, 'nas', { deadlines }), {
        waitMs,
        signal,
        tell: (change) => told.push(change),
        everyMs: 50,
        stalledAfterMs: 1_000,
      });
      opened.push(repository);
      return { repository, told };
    }
    const hang = async (repository: WatchedRepository): Promise<number> => {
      await repository.hasFolder('x');
      const pid = await helperOf(directory.path);
      process.kill(pid, 'SIGSTOP');
      return pid;
    };

    it('tells that it is stalled, waits, tells that it answers again, and fails no call', async () => {
      const { repository, told } = watched(30_000);
      const pid = await hang(repository);
      const call = repository.hasFolder('x');
      const work = repository.whileAnswering(call);
      while (told.length === 0) await turn();
      assert.equal(told[0]?.kind, 'stalled');
      assert.ok(repository.stalledSince !== undefined);
      repository.requireAnswer();
      process.kill(pid, 'SIGCONT');
      assert.equal(await call, false);
      assert.equal(await work, false);
      while (told.length === 1) await turn();
      assert.equal(told[1]?.kind, 'answered');
      assert.ok(told[1].stalledMs >= 1_000, String(told[1].stalledMs));
      assert.equal(repository.stalledSince, undefined);
    });

    it('gives up after the time that was allowed, whoever waits for it', async () => {
      const { repository, told } = watched(500);
      await hang(repository);
      const never = Promise.withResolvers<string>().promise;
      const stalled = { reason: 'REPOSITORY_STALLED' };
      await Promise.all([
        assert.rejects(repository.whileAnswering(never), stalled),
        assert.rejects(repository.hasFolder('x'), stalled),
      ]);
      assert.throws(() => {
        repository.requireAnswer();
      }, stalled);
      assert.deepEqual(
        told.map(({ kind }) => kind),
        ['stalled'],
      );
    });

    it('gives up at once when it is not to be waited for', async () => {
      const { repository, told } = watched(0);
      await hang(repository);
      await assert.rejects(repository.hasFolder('x'), { reason: 'REPOSITORY_STALLED' });
      assert.deepEqual(told, []);
      assert.ok(repository.stalledSince !== undefined);
    });

    it('begins nothing after the job was cancelled, and waits for a hanging call no longer than a moment', async () => {
      const job = new AbortController();
      const { repository } = watched(60_000, job.signal);
      await hang(repository);
      const call = repository.hasFolder('x');
      await turn();
      job.abort(new Error('cancelled'));
      await assert.rejects(repository.hasFolder('y'), /cancelled/);
      await assert.rejects(call, /cancelled/);
    });
  });

  it('has no process any more once it is closed', async () => {
    const repository = open();
    await repository.probe();
    assert.equal((await processesWithArgument(directory.path)).length, 1);
    repository.close();
    while ((await processesWithArgument(directory.path)).length > 0) await new Promise(setImmediate);
  });
});

const turn = (): Promise<unknown> => new Promise(setImmediate);

/** The one helper process of a repository. */
async function helperOf(path: string): Promise<number> {
  for (;;) {
    const [pid, ...others] = await processesWithArgument(path);
    // One that was killed may still be on its way out. Signals to pid 0 would go to this process and all of its group.
    if (pid !== undefined && others.length === 0) return pid;
  }
}
