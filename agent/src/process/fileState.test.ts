import assert from 'node:assert/strict';
import { link, open, readFile, utimes, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { temporaryDirectory } from '../testing/directory.ts';
import { fileStateOf } from './fileState.ts';

describe('the state of a file', () => {
  it('is the same by every name, stays when it is read, and changes when it is written to', async () => {
    await using directory = await temporaryDirectory();
    const path = join(directory.path, '-odd name');
    await writeFile(path, 'one');
    await utimes(path, 1, 1);
    const state = await fileStateOf(path);
    assert.match(state ?? '', /^\d+:3:1\.0{9}$/);
    const other = join(directory.path, 'other');
    await link(path, other);
    await readFile(path);
    assert.equal(await fileStateOf(other), state);
    await using file = await open(path, 'r+');
    await file.write('two');
    assert.notEqual(await fileStateOf(other), state);
  });

  it('is not known of one that is not there', async () => {
    await using directory = await temporaryDirectory();
    assert.equal(await fileStateOf(join(directory.path, 'none')), undefined);
  });
});
