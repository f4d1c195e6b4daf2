import assert from 'node:assert/strict';
import { HoldfastError } from '@holdfast/common/errors.ts';
import { controlOf, type Control } from './control.ts';
import { endWhenIdle, type IdleLimit } from './endWhenIdle.ts';

/** A control whose clock goes on by a minute each time that it is asked whether anything has moved. */
function watched(
  timeoutMinutes: number,
  looks: number,
  isStalled: (control: Control) => boolean = () => false,
) {
  let minutes = 0;
  const control = controlOf(0, () => minutes * 60_000);
  const over = new AbortController();
  const look = (): boolean => {
    minutes++;
    if (minutes >= looks) over.abort();
    return isStalled(control);
  };
  const limit: IdleLimit = {
    timeoutMs: timeoutMinutes * 60_000,
    isStalled: look,
    signal: over.signal,
    everyMs: 0,
  };
  return { control, ended: endWhenIdle(control, limit) };
}

const failure = ({ signal }: Control): unknown => signal.reason;

describe('a job in which nothing moves', () => {
  it('is TIMED_OUT after the time of the settings', async () => {
    const { control, ended } = watched(5, 1_000);
    await ended;
    const error = failure(control);
    assert.ok(error instanceof HoldfastError);
    assert.equal(error.reason, 'TIMED_OUT');
    assert.match(error.message, /for 5 minutes/);
  });

  it('goes on for ever when the time is 0', async () => {
    const { control, ended } = watched(0, 1_000);
    await ended;
    assert.equal(control.signal.aborted, false);
  });

  it('goes on as long as something moves', async () => {
    const { control, ended } = watched(5, 1_000, (moving) => {
      moving.moved();
      return false;
    });
    await ended;
    assert.equal(control.signal.aborted, false);
  });

  it('goes on while its repository is stalled, which has a limit of its own', async () => {
    const { control, ended } = watched(5, 1_000, () => true);
    await ended;
    assert.equal(control.signal.aborted, false);
  });

  it('goes on while it is paused, and the pause does not count', async () => {
    const { control, ended } = watched(5, 1_000);
    await control.setPaused(true);
    await ended;
    assert.equal(control.signal.aborted, false);
  });
});
