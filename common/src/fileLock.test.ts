import assert from 'node:assert/strict';
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempDisposable, readFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { lockAlone, lockShared } from './fileLock.ts';

/** A process that has a lock and waits to be killed. */
async function holder(kind: 'lockShared' | 'lockAlone', path: string): Promise<ChildProcess> {
  const module = new URL('./fileLock.ts', import.meta.url).href;
  const program = `const { ${kind} } = await import(${JSON.stringify(module)});
    const held = ${kind}(${JSON.stringify(path)});
    console.log(held === undefined ? 'no' : 'yes');
    setInterval(() => held, 1_000);`;
  const child = spawn(process.execPath, ['--input-type=module', '--eval', program]);
  const [answer] = (await once(child.stdout, 'data')) as [Buffer];
  assert.equal(answer.toString(), 'yes\n');
  return child;
}

describe('a file lock', () => {
  let directory: Awaited<ReturnType<typeof mkdtempDisposable>>;
  let path: string;
  const children: ChildProcess[] = [];
  beforeEach(async () => {
    directory = await mkdtempDisposable(join(tmpdir(), 'holdfast-'));
    path = join(directory.path, 'lock');
  });
  afterEach(async () => {
    await Promise.all(children.splice(0).map(kill));
    await directory[Symbol.asyncDispose]();
  });
  async function kill(child: ChildProcess): Promise<void> {
    if (child.exitCode !== null || child.signalCode !== null) return;
    child.kill('SIGKILL');
    await once(child, 'exit');
  }

  it('is shared by many, and had alone only when they are gone, though they were killed', async () => {
    const first = await holder('lockShared', path);
    children.push(first);
    const own = lockShared(path);
    assert.ok(own);
    assert.equal(lockAlone(path), undefined);
    own.release();
    own.release();
    assert.equal(lockAlone(path), undefined);
    await kill(first);
    const alone = lockAlone(path);
    assert.ok(alone);
    assert.equal(lockShared(path), undefined);
    alone.release();
    lockShared(path)?.release();
  });

  it('that one has alone is free once it was killed', async () => {
    const other = await holder('lockAlone', path);
    children.push(other);
    assert.equal(lockShared(path), undefined);
    assert.equal(lockAlone(path), undefined);
    await kill(other);
    const own = lockAlone(path);
    assert.ok(own);
    own.release();
    assert.equal((await readFile(path)).length, 0);
  });
});
