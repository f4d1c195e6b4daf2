import assert from 'node:assert/strict';
import { readTpm } from './tpm.ts';

const read = (tpm: string): ReturnType<typeof readTpm> =>
  readTpm(`<domain><devices>${tpm}</devices></domain>`);

describe('the TPM of a domain', () => {
  it('is read with all that a restored domain needs to start', () => {
    const encrypted = read(
      `<tpm model='tpm-crb'><backend type='emulator' version='2.0'><encryption secret='u'/></backend></tpm>`,
    );
    assert.deepEqual(encrypted, {
      ...{ backend: 'emulator', model: 'tpm-crb', version: '2.0' },
      ...{ sourceDirectory: undefined, secretUuid: 'u' },
    });
    const elsewhere = read(
      `<tpm model='tpm-tis'><backend type='emulator' version='1.2'><source type='dir' path='/s'/></backend></tpm>`,
    );
    assert.deepEqual([elsewhere?.version, elsewhere?.sourceDirectory], ['1.2', '/s']);
  });

  it('is of no known version when it is of none of these two', () => {
    for (const version of ['3.0', '', 'toString'])
      assert.equal(read(`<tpm><backend type='emulator' version='${version}'/></tpm>`)?.version, undefined);
  });

  it('is none without one', () => {
    assert.equal(read(''), undefined);
    assert.equal(readTpm('<domain/>'), undefined);
  });
});
