import assert from 'node:assert/strict';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { temporaryDirectory } from '../testing/directory.ts';
import { UsageError } from './arguments.ts';
import { readPassphrase } from './passphrase.ts';

describe('readPassphrase', () => {
  const read = async (content: string | Uint8Array): Promise<string> => {
    await using directory = await temporaryDirectory();
    const file = join(directory.path, 'passphrase');
    await writeFile(file, content);
    return await readPassphrase(file);
  };

  it('takes every byte, a byte order mark and newlines included', async () => {
    for (const text of ['secret', ' secret\r\n\n', '\uFEFFsécret']) assert.equal(await read(text), text);
  });

  it('refuses what QEMU would not take as it is', async () => {
    const contents = ['', 'cut\0off', Buffer.from([0xff, 0xfe]), 'x'.repeat(65_537)];
    for (const content of contents) await assert.rejects(read(content), UsageError);
    await assert.rejects(readPassphrase('/nowhere/passphrase'), /not found/);
    await assert.rejects(readPassphrase('/'), /cannot be read \(EISDIR\)/);
  });
});
