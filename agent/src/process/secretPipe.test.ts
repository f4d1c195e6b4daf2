import assert from 'node:assert/strict';
import { readdir, stat } from 'node:fs/promises';
import { Secret } from '@holdfast/common/secret.ts';
import { temporaryDirectory } from '../testing/directory.ts';
import { output } from '../testing/mount.ts';
import { withSecretPipe } from './secretPipe.ts';

const SECRET = new Secret('correct horse, "battery" ö\n');

describe('a secret pipe', () => {
  let directory: Awaited<ReturnType<typeof temporaryDirectory>>;
  beforeEach(async () => {
    directory = await temporaryDirectory();
  });
  afterEach(async () => {
    assert.deepEqual(await readdir(directory.path), []);
    await directory[Symbol.asyncDispose]();
  });

  it('gives the secret to a program, byte for byte, and is no file', async () => {
    const read = await withSecretPipe(directory.path, SECRET, async (path) => {
      const found = await stat(path);
      assert.ok(found.isFIFO());
      assert.deepEqual([found.mode & 0o777, found.size], [0o600, 0]);
      return output('cat', [path]);
    });
    assert.equal(read, SECRET.reveal());
  });

  it('lets a program go that never reads it', async () => {
    assert.equal(await withSecretPipe(directory.path, SECRET, () => Promise.resolve('done')), 'done');
    assert.equal(await withSecretPipe(directory.path, SECRET, () => output('echo', ['hi'])), 'hi\n');
  });

  it('lets a program go that opens it and does not read it', async () => {
    await withSecretPipe(directory.path, SECRET, (path) => output('sh', ['-c', 'exec 3<"$1"', 'sh', path]));
  });

  it('passes a failure on', async () => {
    await assert.rejects(
      withSecretPipe(directory.path, SECRET, () => Promise.reject(new Error('why'))),
      { message: 'why' },
    );
  });

  it('works many times at once', async () => {
    const secrets = Array.from({ length: 20 }, (_each, index) => `secret ${index}`);
    const read = await Promise.all(
      secrets.map((text) =>
        withSecretPipe(directory.path, new Secret(text), (path) => output('cat', [path])),
      ),
    );
    assert.deepEqual(read, secrets);
  });
});
