import assert from 'node:assert/strict';
import { scriptedVirsh } from '../testing/virsh.ts';
import { readMetadata } from './metadata.ts';

describe('the metadata of snapshots and checkpoints', () => {
  it('leaves out what was deleted meanwhile, and says what libvirt refuses', async () => {
    const refusing = (stderr: string): ReturnType<typeof scriptedVirsh> =>
      scriptedVirsh(([command, , ...rest]) => {
        if (command === 'snapshot-list') return { stdout: 'gone\n --odd\n' };
        if (command === 'snapshot-dumpxml' && rest[0] === '--snapshotname=gone')
          return { exitCode: 1, stderr };
        return { stdout: command === 'snapshot-dumpxml' ? '<?xml version="1.0"?>\n<domainsnapshot/>\n' : '' };
      });
    const gone = refusing("error: Domain snapshot not found: no domain snapshot with matching name 'gone'\n");
    assert.deepEqual(await readMetadata(gone, 'u'), {
      snapshots: [' --odd'],
      checkpoints: [],
      xml: '<metadata>\n<domainsnapshot/>\n</metadata>\n',
    });
    await assert.rejects(readMetadata(refusing('error: internal error'), 'u'), { reason: 'LIBVIRT_FAILED' });
  });

  it('is nothing when there is none', async () => {
    const none = { snapshots: [], checkpoints: [], xml: '' };
    assert.deepEqual(await readMetadata(scriptedVirsh(), 'u'), none);
  });
});
