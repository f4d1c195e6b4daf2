import assert from 'node:assert/strict';
import { together } from './together.ts';

describe('together', () => {
  it('gives all results in their order', async () => {
    assert.deepEqual(await together(Promise.resolve(1), undefined, Promise.resolve('b')), [
      1,
      undefined,
      'b',
    ]);
  });

  it('throws the error of a part when every other has ended', async () => {
    const slow = Promise.withResolvers<undefined>();
    let hasEnded = false;
    const failing = together(Promise.reject(new Error('at once')), slow.promise).finally(() => {
      hasEnded = true;
    });
    failing.catch(() => undefined);
    await new Promise(setImmediate);
    assert.equal(hasEnded, false);
    slow.resolve(undefined);
    await assert.rejects(failing, { message: 'at once' });
  });
});
