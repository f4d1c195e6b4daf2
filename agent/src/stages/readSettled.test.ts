import assert from 'node:assert/strict';
import { mkdir, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { MAX_SAVED_BYTES } from '../repository/savedFile.ts';
import { temporaryDirectory } from '../testing/directory.ts';
import { readSettled } from './readSettled.ts';

describe('reading a small file that may be written to', () => {
  const { signal } = new AbortController();

  it('gives what it holds, says when it is not there, and refuses what is none', async () => {
    await using directory = await temporaryDirectory();
    const at = (name: string): string => join(directory.path, name);
    await writeFile(at('vars'), 'x');
    assert.deepEqual(await readSettled(at('vars'), signal), {
      kind: 'content',
      content: Buffer.from('x'),
      settled: true,
    });
    assert.deepEqual(await readSettled(at('none'), signal), { kind: 'missing' });
    await mkdir(at('folder'));
    assert.equal((await readSettled(at('folder'), signal)).kind, 'unreadable');
    await writeFile(at('huge'), '');
    await truncate(at('huge'), MAX_SAVED_BYTES + 1);
    assert.equal((await readSettled(at('huge'), signal)).kind, 'unreadable');
  });

  it('ends with the job', async () => {
    await using directory = await temporaryDirectory();
    await writeFile(join(directory.path, 'vars'), 'x');
    await assert.rejects(
      readSettled(join(directory.path, 'vars'), AbortSignal.abort(new Error('cancelled'))),
      {
        message: 'cancelled',
      },
    );
  });
});
