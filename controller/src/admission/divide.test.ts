import assert from 'node:assert/strict';
import fc from 'fast-check';
import { MIB } from '@holdfast/common/bytes.ts';
import { divide, FLOOR, type Sharer } from './divide.ts';

const LARGE = 4_096 * MIB;

const amount = fc.oneof(fc.constant(Infinity), fc.integer({ min: 1, max: LARGE }));
const sharers = fc
  .array(fc.record({ wanted: fc.oneof(fc.constant(0), amount), ceiling: amount }), {
    minLength: 1,
    maxLength: 40,
  })
  .map((list): Sharer[] => list.map((each, index) => ({ ...each, id: `b${index}` })));
const budgets = fc.integer({ min: MIB, max: LARGE });

const sum = (shares: ReadonlyMap<string, number>): number =>
  [...shares.values()].reduce((total, share) => total + share, 0);
const shareOf = (shares: ReadonlyMap<string, number>, { id }: Sharer): number => shares.get(id) ?? NaN;

describe('dividing a budget', () => {
  it('gives never more than there is, and each at least something', () => {
    fc.assert(
      fc.property(budgets, sharers, (budget, all) => {
        const shares = divide(budget, all);
        assert.equal(shares.size, all.length);
        assert.ok(sum(shares) <= budget, `${sum(shares)} of ${budget}`);
        for (const share of shares.values()) assert.ok(Number.isSafeInteger(share) && share >= 1);
      }),
    );
  });

  it('leaves nothing that one of them may have', () => {
    fc.assert(
      fc.property(budgets, sharers, (budget, all) => {
        const shares = divide(budget, all);
        const left = budget - sum(shares);
        if (left > all.length + 1) {
          for (const sharer of all) assert.ok(shareOf(shares, sharer) >= Math.floor(sharer.ceiling) - 1);
        }
      }),
    );
  });

  it('gives none more than its own limit', () => {
    fc.assert(
      fc.property(budgets, sharers, (budget, all) => {
        const shares = divide(budget, all);
        for (const sharer of all) assert.ok(shareOf(shares, sharer) <= sharer.ceiling);
      }),
    );
  });

  it('is fair: who has less than another has all that it wants or may have', () => {
    fc.assert(
      fc.property(budgets, sharers, (budget, all) => {
        const shares = divide(budget, all);
        for (const one of all) {
          for (const other of all) {
            const [less, more] = [shareOf(shares, one), shareOf(shares, other)];
            if (less + 1 >= more) continue;
            const enough = Math.min(Math.max(one.wanted, FLOOR), one.ceiling);
            assert.ok(less + 1 >= enough, `${less} of the wanted ${enough}, and another has ${more}`);
          }
        }
      }),
    );
  });

  it('does not ask who comes first', () => {
    fc.assert(
      fc.property(budgets, sharers, (budget, all) => {
        const [there, back] = [divide(budget, all), divide(budget, all.toReversed())];
        for (const sharer of all) assert.ok(Math.abs(shareOf(there, sharer) - shareOf(back, sharer)) <= 1);
      }),
    );
  });

  it('gives nobody less when there is more', () => {
    fc.assert(
      fc.property(budgets, budgets, sharers, (one, other, all) => {
        const [small, large] = [divide(Math.min(one, other), all), divide(Math.max(one, other), all)];
        // Of what nobody wants, one may get less when the others' wishes can be met.
        const wishes = (sharer: Sharer): number => Math.min(Math.max(sharer.wanted, FLOOR), sharer.ceiling);
        for (const sharer of all) {
          assert.ok(shareOf(large, sharer) + 1 >= Math.min(shareOf(small, sharer), wishes(sharer)));
        }
      }),
    );
  });

  it('gives what an idle one leaves to those that can use it', () => {
    const shares = divide(100 * MIB, [
      { id: 'idle', wanted: FLOOR, ceiling: Infinity },
      { id: 'slow', wanted: 10 * MIB, ceiling: Infinity },
      { id: 'one', wanted: Infinity, ceiling: Infinity },
      { id: 'other', wanted: Infinity, ceiling: Infinity },
    ]);
    assert.equal(shares.get('idle'), FLOOR);
    assert.equal(shares.get('slow'), 10 * MIB);
    assert.equal(shares.get('one'), shares.get('other'));
    assert.ok((shares.get('one') ?? 0) > 44 * MIB);
  });

  it('divides a budget that is below all floors, too', () => {
    const all = Array.from({ length: 40 }, (_, index) => ({
      id: `b${index}`,
      wanted: Infinity,
      ceiling: Infinity,
    }));
    const shares = divide(MIB, all);
    assert.deepEqual(new Set(shares.values()), new Set([Math.floor(MIB / 40)]));
  });
});
