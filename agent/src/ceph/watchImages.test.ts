import assert from 'node:assert/strict';
import { setImmediate } from 'node:timers/promises';
import { HoldfastError } from '@holdfast/common/errors.ts';
import type { Reason } from '@holdfast/common/reasons.ts';
import { watchImages } from './watchImages.ts';

const IMAGE = {
  cluster: { monitors: [], user: '', secret: undefined, confPath: '' },
  ...{ pool: 'p', namespace: '', name: 'i' },
};

describe('the watch over images that are copied', () => {
  let asked = 0;
  let reason: Reason | undefined;
  const rbd = {
    info: () => {
      asked++;
      return reason === undefined
        ? Promise.resolve({ id: '1', sizeBytes: 1 })
        : Promise.reject(new HoldfastError(reason, 'No.'));
    },
  };
  beforeEach(() => {
    asked = 0;
    reason = undefined;
  });

  it('asks their cluster when a copy stands still, now and then, and passes on what is wrong', async () => {
    const watch = watchImages(rbd, [IMAGE]);
    for (const idleMs of [0, 9_999, 10_000, 11_000, 19_999, 20_000, 100, 11_000]) {
      watch.whenIdle(idleMs);
      await setImmediate();
    }
    assert.equal(asked, 3);
    reason = 'VOLUME_REFUSED';
    watch.whenIdle(21_000);
    await setImmediate();
    assert.throws(
      () => {
        watch.whenIdle(21_250);
      },
      { reason },
    );
    // It moves again.
    watch.whenIdle(10);
    watch.whenIdle(20);
    assert.equal((await watch.fault())?.reason, 'VOLUME_REFUSED');
  });

  it('has nobody to ask on a host without the tool', async () => {
    reason = 'DISK_UNSUPPORTED';
    assert.equal(await watchImages(rbd, [IMAGE]).fault(), undefined);
    assert.equal(asked, 1);
  });
});
