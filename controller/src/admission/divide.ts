/** A backup that shares a budget with others. */
export interface Sharer {
  readonly id: string;
  /** What it could use now, bytes a second; Infinity when that is not known or any amount. */
  readonly wanted: number;
  /** What it may never have more of, bytes a second: its own limit; Infinity without one. */
  readonly ceiling: number;
}

/** What even an idle one keeps, so that it is seen to move when it can, bytes a second. */
export const FLOOR = 256 * 1_024;

/** How near the level comes to the highest that the budget allows, bytes a second. */
const PRECISION = 0.001;

/**
 * Divides a budget among those that share it. Each first has the floor; what is left goes to all alike, but to nobody more
 * than it wants; what nobody wants goes to all alike, up to their ceilings, since a wish is only an estimate. (Max-min
 * fairness, three times: https://en.wikipedia.org/wiki/Max-min_fairness.)
 *
 * @param budget whole bytes a second, at least one for each sharer
 * @returns whole bytes a second by id, whose sum is not above the budget, and below it only when all are at their ceilings
 *   or for less than a byte each
 */
export function divide(budget: number, sharers: readonly Sharer[]): ReadonlyMap<string, number> {
  const shares = new Map(sharers.map(({ id }) => [id, 0]));
  const pourUpTo = (level: (sharer: Sharer) => number): void => {
    pour(budget, sharers, shares, (sharer) => Math.min(sharer.ceiling, level(sharer)));
  };
  pourUpTo(() => FLOOR);
  pourUpTo(({ wanted }) => wanted);
  pourUpTo(() => Infinity);
  return new Map([...shares].map(([id, share]) => [id, Math.floor(share)]));
}

/** Raises all shares to one level, the highest that the budget allows; none above its limit and none below what it has. */
function pour(
  budget: number,
  sharers: readonly Sharer[],
  shares: Map<string, number>,
  limitOf: (sharer: Sharer) => number,
): void {
  const at = (level: number, sharer: Sharer): number => {
    const share = shares.get(sharer.id) ?? 0;
    return Math.max(share, Math.min(level, limitOf(sharer)));
  };
  const sumAt = (level: number): number => sharers.reduce((sum, sharer) => sum + at(level, sharer), 0);
  let [level, tooHigh] = sumAt(budget) <= budget ? [budget, budget] : [0, budget];
  while (tooHigh - level > PRECISION) {
    const middle = (level + tooHigh) / 2;
    if (sumAt(middle) <= budget) level = middle;
    else tooHigh = middle;
  }
  for (const sharer of sharers) shares.set(sharer.id, at(level, sharer));
}
