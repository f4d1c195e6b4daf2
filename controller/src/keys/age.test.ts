import assert from 'node:assert/strict';
import { Secret } from '@holdfast/common/secret.ts';
import { encryptTo, generateKeyPair, recipientCount } from './age.ts';

describe('an age file', () => {
  it('says for how many it is, and nothing of who they are', async () => {
    const { recipient: one } = await generateKeyPair();
    const { recipient: other } = await generateKeyPair();
    const counts = [];
    for (const recipients of [[one], [one, other]]) {
      counts.push(recipientCount(await encryptTo(recipients, new Secret('plain\n-> text'))));
    }
    assert.deepEqual([...counts, recipientCount(Buffer.from('-> X25519 a\n---'))], [1, 2, 0]);
  });
});
