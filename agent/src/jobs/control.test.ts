import assert from 'node:assert/strict';
import { controlOf, JobCancelled, type Steering } from './control.ts';

const MIB = 1_048_576;

function recorder(): Steering & { readonly told: (string | number)[] } {
  const told: (string | number)[] = [];
  const tell = (what: string | number) => (): Promise<void> => {
    told.push(what);
    return Promise.resolve();
  };
  return { told, setLimit: (bytes) => tell(bytes)(), pause: tell('pause'), resume: tell('resume') };
}

describe('the control of a job', () => {
  it('passes its limit on from the first byte, and every change at once', async () => {
    const control = controlOf(40);
    const steering = recorder();
    await control.steer(steering);
    await control.setLimit(80);
    await control.setLimit(0);
    assert.deepEqual(steering.told, [40 * MIB, 80 * MIB, 0]);
    assert.equal(control.limitMibps, 0);
  });

  it('keeps wishes from before there is anything to steer', async () => {
    const control = controlOf(0);
    await control.setLimit(7);
    await control.setPaused(true);
    const steering = recorder();
    await control.steer(steering);
    assert.deepEqual(steering.told, [7 * MIB, 'pause']);
    assert.equal(control.paused, true);
  });

  it('pauses and resumes once, however often it is told', async () => {
    const control = controlOf(0);
    const steering = recorder();
    await control.steer(steering);
    for (const wanted of [true, true, false, false]) await control.setPaused(wanted);
    assert.deepEqual(steering.told, [0, 'pause', 'resume']);
  });

  it('tells nothing to a stage that has given it back', async () => {
    const control = controlOf(0);
    const steering = recorder();
    const release = await control.steer(steering);
    release();
    await control.setLimit(9);
    await control.setPaused(true);
    assert.deepEqual(steering.told, [0]);
  });

  it('applies a limit that is changed while the stage takes it over', async () => {
    const control = controlOf(10);
    const took = Promise.withResolvers<undefined>();
    const steering = recorder();
    const slow: Steering = {
      ...steering,
      setLimit: async (bytes) => {
        if (steering.told.length === 0) {
          void steering.setLimit(bytes);
          await took.promise;
        } else await steering.setLimit(bytes);
      },
    };
    const steered = control.steer(slow);
    const changed = control.setLimit(20);
    took.resolve(undefined);
    await Promise.all([steered, changed]);
    assert.equal(steering.told.at(-1), 20 * MIB);
  });

  it('cancels by its signal', () => {
    const control = controlOf(0);
    assert.equal(control.signal.aborted, false);
    control.cancel();
    assert.throws(() => {
      control.signal.throwIfAborted();
    }, JobCancelled);
  });
});
