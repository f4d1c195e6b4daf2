import assert from 'node:assert/strict';
import { chmod, mkdtempDisposable, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import process from 'node:process';
import { silentLogger } from '@holdfast/common/logger.ts';
import { Secret } from '@holdfast/common/secret.ts';
import { startController } from '@holdfast/controller/controller.ts';
import { processTerminal } from '../process-terminal.ts';
import { run } from '../run.ts';
import { fakeTerminal } from '../testing/fake-terminal.ts';

const IDENTITY = `AGE-SECRET-KEY-1${'Q'.repeat(58)}`;

describe('key', () => {
  it('lists, rotates and recovers, and says what is missing', async () => {
    await using root = await mkdtempDisposable(join(tmpdir(), 'holdfast-key-'));
    const path = join(root.path, 'controller.sock');
    const controller = await startController({
      listen: [{ kind: 'unix', path }],
      state: { kind: 'sqlite', directory: join(root.path, 'state') },
      masterKey: new Secret('5a'.repeat(32)),
      logger: silentLogger,
    });
    const typed = async (...argv: string[]): Promise<{ code: number; out: string; err: string }> => {
      const files = {
        good: `# public key: age1\n${IDENTITY}\n`,
        two: `${IDENTITY}\n${IDENTITY}\n`,
        none: '\n',
      };
      const terminal = fakeTerminal({ files });
      const loadParts = (): Promise<never> => Promise.reject(new Error('not in this test'));
      const code = await run(['--controller', `unix://${path}`, ...argv], { terminal, loadParts });
      return { code, ...terminal.printed };
    };
    try {
      await typed('zone', 'create', 'z1');
      assert.match((await typed('key', 'list', '--zone', 'z1')).out, /^KEY +STATE/);
      const rotated = await typed('key', 'rotate', '--zone', 'z1');
      assert.deepEqual([rotated.code, rotated.err.includes('KEY_NOT_FOUND')], [3, true]);
      for (const file of ['two', 'none', 'absent']) {
        const refused = await typed('key', 'recover', '--zone', 'z1', '--identity-file', file);
        assert.equal(refused.code, 2, file);
        assert.ok(!refused.err.includes(IDENTITY));
      }
      assert.equal((await typed('key', 'recover', '--zone', 'z1')).code, 2);
      const recovered = await typed('key', 'recover', '--zone', 'z1', '--identity-file', 'good');
      assert.deepEqual([recovered.code, recovered.out], [0, '0 recovered, 0 not.\n']);
      assert.equal((await typed('key', 'import', '--zone', 'z1')).code, 2);
    } finally {
      await controller.close();
    }
  });

  it('takes an identity from no file that others can read', async () => {
    await using root = await mkdtempDisposable(join(tmpdir(), 'holdfast-key-'));
    const file = join(root.path, 'escrow.key');
    await writeFile(file, IDENTITY, { mode: 0o600 });
    const terminal = processTerminal(process);
    assert.equal(await terminal.readPrivateFile(file), IDENTITY);
    await chmod(file, 0o640);
    await assert.rejects(terminal.readPrivateFile(file), /chmod 600/);
  });
});
