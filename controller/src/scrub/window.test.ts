import assert from 'node:assert/strict';
import { isWithin } from './window.ts';

describe('the window of scrubs', () => {
  const at = (time: string): Date => new Date(`2026-02-28T${time}:30Z`);
  for (const [window, inside, outside] of [
    ['01:30-05:00', ['01:30', '03:00', '04:59'], ['00:00', '01:29', '05:00', '23:59']],
    ['22:00-06:00', ['22:00', '23:59', '00:00', '05:59'], ['06:00', '12:00', '21:59']],
    ['23:59-00:00', ['23:59'], ['23:58', '00:00']],
    ['00:00-23:59', ['00:00', '12:00', '23:58'], ['23:59']],
    ['08:00-08:00', ['07:59', '08:00'], []],
    ['', ['00:00', '12:00'], []],
  ] as const) {
    it(`${window || 'without one'}: the time of the day in UTC, the end not included`, () => {
      for (const time of inside) assert.ok(isWithin(window, at(time)), time);
      for (const time of outside) assert.ok(!isWithin(window, at(time)), time);
    });
  }
});
