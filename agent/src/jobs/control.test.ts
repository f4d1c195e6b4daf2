import assert from 'node:assert/strict';
import { MIB } from '@holdfast/common/bytes.ts';
import { controlOf, JobCancelled, type Steering } from './control.ts';

function recorder(): Steering & {
  readonly told: (string | number)[];
  note(what: string | number): Promise<void>;
} {
  const told: (string | number)[] = [];
  const note = (what: string | number): Promise<void> => {
    told.push(what);
    return Promise.resolve();
  };
  return { told, note, setLimit: note, pause: () => note('pause'), resume: () => note('resume') };
}

const nothing = (): Promise<void> => Promise.resolve();

describe('the control of a job', () => {
  it('passes its limit on before anything begins, and every change at once', async () => {
    const control = controlOf(40);
    const steering = recorder();
    await control.steer(steering, () => steering.note('begin'));
    await control.setLimit(80);
    await control.setLimit(0);
    assert.deepEqual(steering.told, [40 * MIB, 'begin', 80 * MIB, 0]);
    assert.equal(control.limitMibps, 0);
  });

  it('holds its limit and its share together: the smaller one is in force', async () => {
    const control = controlOf(40, undefined, 30 * MIB);
    const steering = recorder();
    await control.steer(steering, nothing);
    await control.setLimit(20);
    await control.setShare(10 * MIB);
    await control.setLimit(0);
    await control.setShare(0);
    assert.deepEqual(steering.told, [30 * MIB, 20 * MIB, 10 * MIB, 10 * MIB, 0]);
    assert.equal(control.bytesPerSecond, 0);
  });

  it('keeps wishes from before there is anything to steer', async () => {
    const control = controlOf(0);
    await control.setLimit(7);
    await control.setPaused(true);
    const steering = recorder();
    await control.steer(steering, () => steering.note('begin'));
    assert.deepEqual(steering.told, [7 * MIB, 'begin', 'pause']);
    assert.equal(control.paused, true);
  });

  it('pauses and resumes once, however often it is told', async () => {
    const control = controlOf(0);
    const steering = recorder();
    await control.steer(steering, nothing);
    for (const wanted of [true, true, false, false]) await control.setPaused(wanted);
    assert.deepEqual(steering.told, [0, 'pause', 'resume']);
  });

  it('tells nothing to a stage that has given it back', async () => {
    const control = controlOf(0);
    const steering = recorder();
    const release = await control.steer(steering, nothing);
    await release();
    await control.setLimit(9);
    await control.setPaused(true);
    assert.deepEqual(steering.told, [0]);
  });

  it('keeps wishes that come while the stage begins until it has begun, and their order', async () => {
    const control = controlOf(10);
    const begun = Promise.withResolvers<undefined>();
    const steering = recorder();
    const steered = control.steer(steering, async () => {
      await steering.note('begin');
      await begun.promise;
      await steering.note('begun');
    });
    const wishes = [control.setPaused(true), control.setLimit(20), control.setPaused(false)];
    begun.resolve(undefined);
    await Promise.all([steered, ...wishes]);
    assert.deepEqual(steering.told, [10 * MIB, 'begin', 'begun', 'pause', 20 * MIB, 'resume']);
  });

  it('goes on after a wish that QEMU refused', async () => {
    const control = controlOf(0);
    const steering = recorder();
    const refuse = (): Promise<void> => Promise.reject(new Error('refused'));
    await control.steer({ ...steering, pause: refuse }, nothing);
    await assert.rejects(control.setPaused(true), /refused/);
    await control.setLimit(5);
    assert.deepEqual(steering.told, [0, 5 * MIB]);
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
