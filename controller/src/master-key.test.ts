import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdtempDisposable, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import process from 'node:process';
import { promisify } from 'node:util';
import { createMasterKey, readMasterKey, readMasterKeyFile } from './master-key.ts';
import { openStore } from './store/store.ts';

const run = promisify(execFile);
const MAIN = join(import.meta.dirname, 'main.ts');

describe('the master key', function () {
  this.timeout(60_000);

  it('is asked for by name when there is none', async () => {
    const none = { file: undefined, text: undefined, credentialsDirectory: undefined };
    await assert.rejects(readMasterKey(none), { reason: 'INVALID_REQUEST', message: /no master key/ });
    await assert.rejects(readMasterKey({ ...none, file: '/absent' }), { reason: 'INVALID_REQUEST' });
  });

  it('is replaced by another one, by a command', async () => {
    await using root = await mkdtempDisposable(join(tmpdir(), 'holdfast-master-key-'));
    const [old, next, directory] = ['old', 'new', 'state'].map((name) => join(root.path, name));
    assert.ok(old !== undefined && next !== undefined && directory !== undefined);
    for (const file of [old, next]) {
      await createMasterKey(file);
      assert.equal((await stat(file)).mode & 0o777, 0o600);
    }
    const open = async (file: string): Promise<void> => {
      const store = await openStore({ kind: 'sqlite', directory }, await readMasterKeyFile(file));
      await store.close();
    };
    await open(old);
    await assert.rejects(open(next), { reason: 'STATE_UNUSABLE' });
    const files = ['--master-key-file', old, '--new-master-key-file', next];
    await run(process.execPath, [MAIN, 'reseal', '--state-directory', directory, ...files]);
    await open(next);
    await assert.rejects(open(old), { reason: 'STATE_UNUSABLE' });
    const again = run(process.execPath, [MAIN, 'reseal', '--state-directory', directory, ...files]);
    await assert.rejects(again, { code: 2, stderr: /not the one of this database/ });
  });
});
