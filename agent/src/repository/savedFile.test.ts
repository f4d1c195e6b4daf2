import assert from 'node:assert/strict';
import { readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { generateX25519Identity } from 'age-encryption';
import { Secret } from '@holdfast/common/secret.ts';
import { temporaryDirectory } from '../testing/directory.ts';
import { openLocal } from '../testing/repository.ts';
import { decryptSavedFile, readSavedFile, writeSavedFile } from './savedFile.ts';

describe('a small file beside the images', () => {
  for (const encrypted of [false, true]) {
    it(`comes back as it was, or is damaged: ${encrypted ? 'encrypted' : 'plain'}`, async () => {
      await using directory = await temporaryDirectory();
      const repository = openLocal(directory.path);
      try {
        const key = encrypted ? new Secret(await generateX25519Identity()) : undefined;
        const content = Buffer.from('what a guest wrote');
        const saved = await writeSavedFile(
          (name, bytes) => repository.writeFile(name, bytes),
          'nvram.fd',
          content,
          key,
        );
        assert.deepEqual(await readdir(directory.path), [saved.file]);
        assert.equal(saved.file, encrypted ? 'nvram.fd.age' : 'nvram.fd');
        const path = join(directory.path, saved.file);
        const bytes = await readFile(path);
        assert.equal(bytes.includes(content), !encrypted);
        assert.equal(BigInt(bytes.length), saved.storedBytes);
        const read = await readSavedFile(repository, '.', saved);
        assert.deepEqual(Buffer.from(await decryptSavedFile(read, key)), content);

        bytes.writeUInt8(bytes.readUInt8(bytes.length - 1) ^ 1, bytes.length - 1);
        await writeFile(path, bytes);
        await assert.rejects(readSavedFile(repository, '.', saved), { reason: 'BACKUP_DAMAGED' });
        await rm(path);
        await assert.rejects(readSavedFile(repository, '.', saved), { reason: 'BACKUP_DAMAGED' });
      } finally {
        repository.close();
      }
    });
  }
});
