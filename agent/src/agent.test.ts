import assert from 'node:assert/strict';
import { mkdtempDisposable, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createLogger } from '@holdfast/common/logger.ts';
import { startAgent } from './agent.ts';

describe('startAgent', () => {
  it('opens the way to scratch space and sockets to QEMUs of other users, and closes its state', async () => {
    await using root = await mkdtempDisposable(join(tmpdir(), 'holdfast-agent-'));
    const lib = join(root.path, 'lib/holdfast');
    const runtimeDirectory = join(root.path, 'run/holdfast/agent');
    const agent = await startAgent({
      listen: [{ kind: 'unix', path: join(root.path, 'agent.sock') }],
      zone: 'z',
      hostName: 'h',
      libvirtUri: 'qemu:///system',
      stateDirectory: join(lib, 'agent'),
      runtimeDirectory,
      scratchDirectory: join(lib, 'scratch'),
      logger: createLogger({ level: 'error', format: 'json' }),
      logLevel: 'error',
    });
    await agent.close();
    const others = async (path: string) => (await stat(path)).mode & 0o007;
    for (const path of [lib, join(lib, 'scratch'), runtimeDirectory, join(runtimeDirectory, 'nbd')])
      assert.equal((await others(path)) & 0o001, 0o001, path);
    const closed = ['jobs', 'mounts', 'keys'].map((name) => join(runtimeDirectory, name));
    for (const path of [join(lib, 'agent'), ...closed]) assert.equal(await others(path), 0, path);
  });
});
