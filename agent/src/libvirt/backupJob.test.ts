import assert from 'node:assert/strict';
import { join } from 'node:path';
import { temporaryDirectory } from '../testing/directory.ts';
import { beginBackup } from './backupJob.ts';
import type { Virsh } from './virsh.ts';

describe("the start of libvirt's backup job", () => {
  it('is waited for when the job is cancelled meanwhile, so that there is something to end', async () => {
    await using directory = await temporaryDirectory();
    const cancelled = new AbortController();
    let hasEnded = false;
    const virsh: Virsh = {
      uri: 'test:///default',
      command: () => Promise.reject(new Error('not used')),
      attempt: async (_args, options) => {
        cancelled.abort(new Error('cancelled'));
        assert.equal(options?.signal, undefined);
        await new Promise(setImmediate);
        hasEnded = true;
        return { exitCode: 0, stdout: '', stderr: '' };
      },
    };
    const file = join(directory.path, 'backup.xml');
    await assert.rejects(
      beginBackup(virsh, 'uuid', '<domainbackup/>', file, [], cancelled.signal),
      /cancelled/,
    );
    assert.ok(hasEnded);
  });
});
