import assert from 'node:assert/strict';
import fc from 'fast-check';
import { implausibilities, type Measures } from './plausibility.ts';

const GIB = 1024 ** 3;

describe('plausibility', () => {
  const plain = { compressed: false, tolerancePercent: 50 };
  const packed = { compressed: true, tolerancePercent: 50 };
  const backup = (dataGib: number, ratio = 1): Measures => ({
    dataBytes: dataGib * GIB,
    storedBytes: dataGib * ratio * GIB,
  });
  const reasons = (
    history: readonly Measures[],
    next: Measures,
    options: Parameters<typeof implausibilities>[2],
  ): string[] => implausibilities(history, next, options).map(({ reason }) => reason);
  const usual = [10, 10.1, 10, 10.3, 10.2, 10.4].map((size) => backup(size, 0.4));

  it('tells of data that cannot be compressed any more, with figures', () => {
    const [warning, ...others] = implausibilities(usual, backup(10.4, 0.99), packed);
    assert.deepEqual([warning?.reason, others], ['IMPLAUSIBLE_RATIO', []]);
    assert.match(warning?.message ?? '', /takes 0\.99 bytes, and 0\.40 were .* malware has encrypted/);
  });

  it('tells of a backup that is far larger or smaller, with figures', () => {
    const [warning] = implausibilities(usual, backup(25, 0.4), packed);
    assert.equal(warning?.reason, 'IMPLAUSIBLE_SIZE');
    assert.match(warning.message, /has 25600\.0 MiB of data, and 10\d{3}\.\d MiB were to be expected/);
    assert.deepEqual(reasons(usual, backup(4, 0.4), packed), ['IMPLAUSIBLE_SIZE']);
    assert.deepEqual(reasons(usual, backup(0, 0), plain), ['IMPLAUSIBLE_SIZE']);
  });

  it('tells of what is stored when neither size nor ratio explains it', () => {
    assert.deepEqual(reasons(usual, backup(14, 0.48), packed), ['IMPLAUSIBLE_CHANGE']);
  });

  it('says nothing of the first few, nor of the ratio of plain images', () => {
    assert.deepEqual(reasons(usual.slice(0, 4), backup(100), plain), []);
    assert.deepEqual(reasons(usual, { ...backup(10.4), storedBytes: 5 * GIB }, plain), []);
  });

  it('tells of a change once, and not when things are as before again', () => {
    const after = [...usual, backup(30, 0.4)];
    assert.deepEqual(reasons(after, backup(30.2, 0.4), packed), []);
    assert.deepEqual(reasons(after, backup(10.5, 0.4), packed), []);
  });

  const share = fc.double({ min: -1, max: 1, noNaN: true });
  const series = (length: number, growth: number, noise: number, shares: readonly number[]): Measures[] =>
    Array.from({ length }, (_, index) => {
      const size = 50 * (1 + growth) ** index;
      return backup(
        size * (1 + noise * (shares[2 * index] ?? 0)),
        0.5 * (1 + noise * (shares[2 * index + 1] ?? 0)),
      );
    });

  it('raises no alarm on series that are constant, or grow or shrink slowly, with some noise', () => {
    const parameters = fc.record({
      length: fc.integer({ min: 1, max: 60 }),
      growth: fc.double({ min: -0.03, max: 0.08, noNaN: true }),
      noise: fc.double({ min: 0, max: 0.05, noNaN: true }),
      shares: fc.array(share, { minLength: 120, maxLength: 120 }),
    });
    fc.assert(
      fc.property(parameters, ({ length, growth, noise, shares }) => {
        const all = series(length, growth, noise, shares);
        for (const [index, next] of all.entries())
          assert.deepEqual(reasons(all.slice(0, index), next, packed), []);
      }),
      { numRuns: 300 },
    );
  });

  it('finds a guest that is encrypted after any such series', () => {
    const parameters = fc.record({
      length: fc.integer({ min: 6, max: 60 }),
      growth: fc.double({ min: -0.02, max: 0.03, noNaN: true }),
      noise: fc.double({ min: 0, max: 0.02, noNaN: true }),
      shares: fc.array(share, { minLength: 120, maxLength: 120 }),
    });
    fc.assert(
      fc.property(parameters, ({ length, growth, noise, shares }) => {
        const all = series(length, growth, noise, shares);
        const last = all.at(-1)?.dataBytes ?? 0;
        const encrypted = { dataBytes: last, storedBytes: last };
        assert.deepEqual(reasons(all, encrypted, packed), ['IMPLAUSIBLE_RATIO']);
      }),
      { numRuns: 300 },
    );
  });
});
