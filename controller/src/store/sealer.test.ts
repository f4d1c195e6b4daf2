import assert from 'node:assert/strict';
import { MASTER_KEY } from '../testing/lab.ts';
import { createSealer } from './sealer.ts';

describe('the sealer', () => {
  it('opens a sealed value under its own name only', () => {
    const sealer = createSealer(MASTER_KEY);
    const sealed = sealer.seal('secret', 'settings.value:z1:key');
    assert.equal(sealer.open(sealed, 'settings.value:z1:key').toString(), 'secret');
    assert.throws(() => sealer.open(sealed, 'settings.value:z2:key'), { reason: 'STATE_UNUSABLE' });
    assert.notDeepEqual(sealer.seal('secret', 'x'), sealer.seal('secret', 'x'));
  });
});
