import assert from 'node:assert/strict';
import { mkdtempDisposable } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { silentLogger } from '@holdfast/common/logger.ts';
import { Secret } from '@holdfast/common/secret.ts';
import { settingKeys } from '@holdfast/common/settings.ts';
import { startController } from '@holdfast/controller/controller.ts';
import { run } from '../run.ts';
import { fakeTerminal } from '../testing/fake-terminal.ts';

describe('setting', () => {
  it('lists what there is, and who changed what, without passphrases', async () => {
    await using root = await mkdtempDisposable(join(tmpdir(), 'holdfast-settings-'));
    const path = join(root.path, 'controller.sock');
    const controller = await startController({
      listen: [{ kind: 'unix', path }],
      state: { kind: 'sqlite', directory: join(root.path, 'state') },
      masterKey: new Secret('5a'.repeat(32)),
      logger: silentLogger,
    });
    const typed = async (...argv: string[]): Promise<string[]> => {
      const terminal = fakeTerminal({ files: { passphrase: 'correct horse\n' } });
      const loadParts = (): Promise<never> => Promise.reject(new Error('not in this test'));
      const code = await run(['--controller', `unix://${path}`, ...argv], { terminal, loadParts });
      assert.equal(code, 0, terminal.printed.err);
      return terminal.printed.out.trimEnd().split('\n');
    };
    try {
      const listed = (await typed('setting', 'list')).slice(1);
      assert.deepEqual(
        listed.map((line) => line.split(/\s+/)[0]),
        settingKeys,
      );
      const limit = listed.find((line) => line.startsWith('nas.backup.bandwidth.limit.mbps '));
      assert.match(limit ?? '', /integer +0 +0 to 1048576 +MiB of source data/);

      await typed('zone', 'create', 'z1');
      await typed('zone', 'set', 'z1', 'nas.backup.quiesce=required', '--passphrase-file', 'passphrase');
      await typed('zone', 'set', '--global', 'nas.backup.quiesce=best-effort');
      await typed('zone', 'set', 'z1', 'nas.backup.quiesce=off');
      await typed('zone', 'set', 'z1', '--unset', 'nas.backup.quiesce');
      const quiesce = (await typed('setting', 'changes', '--key', 'nas.backup.quiesce')).slice(1);
      assert.deepEqual(
        quiesce.map((line) => line.split(/ {2,}/).slice(1, 5)),
        [
          ['z1', 'nas.backup.quiesce', 'unset (was off)', 'unix socket'],
          ['z1', 'nas.backup.quiesce', 'required -> off', 'unix socket'],
          ['(all)', 'nas.backup.quiesce', 'set to best-effort', 'unix socket'],
          ['z1', 'nas.backup.quiesce', 'set to required', 'unix socket'],
        ],
      );
      assert.equal((await typed('setting', 'changes', '--global')).length, 2);
      const all = await typed('setting', 'changes', '--zone', 'z1');
      assert.equal(all.length, 5);
      assert.ok(!all.join('\n').includes('horse'));
    } finally {
      await controller.close();
    }
  });
});
