import assert from 'node:assert/strict';
import { mkdir, mkdtempDisposable, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { openStateDirectory } from './state-directory.ts';

describe('openStateDirectory', () => {
  it('makes a directory that a QEMU of another user can pass through and not list', async () => {
    await using root = await mkdtempDisposable(join(tmpdir(), 'holdfast-state-'));
    const path = join(root.path, 'state');
    await mkdir(path, { mode: 0o700 });
    await openStateDirectory(path);
    assert.equal((await stat(path)).mode & 0o777, 0o711);
  });
});
