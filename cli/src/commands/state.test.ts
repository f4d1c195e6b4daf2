import assert from 'node:assert/strict';
import { mkdir, mkdtempDisposable, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Secret } from '@holdfast/common/secret.ts';
import { copySqlite } from '@holdfast/controller/store/copy.ts';
import { openStore } from '@holdfast/controller/store/store.ts';
import { run } from '../run.ts';
import type { LocalParts } from '../standalone/parts.ts';
import { fakeTerminal } from '../testing/fake-terminal.ts';

const MASTER_KEY = new Secret('5a'.repeat(32));

describe('state backup', () => {
  const backup = async (...argv: string[]): Promise<{ code: number; out: string; err: string }> => {
    const terminal = fakeTerminal();
    const loadParts = () => Promise.resolve({ copySqlite } as LocalParts);
    const code = await run(['state', 'backup', ...argv], { terminal, loadParts });
    return { code, ...terminal.printed };
  };

  it('copies the state of a controller, and of a standalone one, while they have it open', async () => {
    await using root = await mkdtempDisposable(join(tmpdir(), 'holdfast-state-'));
    for (const directory of [join(root.path, 'one'), join(root.path, 'two', 'controller')]) {
      await mkdir(directory, { recursive: true });
      const store = await openStore({ kind: 'sqlite', directory }, MASTER_KEY);
      const file = join(root.path, `${directory.length}.sqlite`);
      const { code, out, err } = await backup(
        '--state-directory',
        directory.replace(/\/controller$/, ''),
        file,
      );
      assert.equal(code, 0, err);
      assert.equal(out, `The state was copied to ${file}.\n`);
      assert.equal((await stat(file)).mode & 0o777, 0o600);
      const again = await backup('--state-directory', directory, file);
      assert.equal(again.code, 4);
      assert.match(again.err, /TARGET_EXISTS/);
      await store.close();
    }
  });

  it('refuses a directory without a database', async () => {
    await using root = await mkdtempDisposable(join(tmpdir(), 'holdfast-state-'));
    const { code, err } = await backup('--state-directory', root.path, join(root.path, 'copy'));
    assert.equal(code, 2);
    assert.match(err, /INVALID_REQUEST/);
  });
});
