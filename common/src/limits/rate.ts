/** How often each caller may call, as a bucket of tokens that fills steadily. */
export interface RateLimit {
  readonly perSecond: number;
  /** Whether the caller may call now. */
  take(caller: string): boolean;
}

interface Bucket {
  tokens: number;
  filledAtMs: number;
}

/** More callers than this are not told apart by what they did a second ago. */
const MAX_BUCKETS = 10_000;

/** A caller may use what two seconds give at once. @param nowMs a clock that never goes back */
export function createRateLimit(perSecond: number, nowMs: () => number = () => performance.now()): RateLimit {
  const capacity = perSecond * 2;
  const buckets = new Map<string, Bucket>();
  return {
    perSecond,
    take: (caller) => {
      const now = nowMs();
      const known = buckets.get(caller);
      const tokens =
        known === undefined
          ? capacity
          : Math.min(capacity, known.tokens + ((now - known.filledAtMs) / 1_000) * perSecond);
      // The map is in the order of last use: the one that goes has most likely been full for long.
      buckets.delete(caller);
      buckets.set(caller, { tokens: Math.max(0, tokens - 1), filledAtMs: now });
      if (buckets.size > MAX_BUCKETS) {
        for (const oldest of buckets.keys()) {
          buckets.delete(oldest);
          break;
        }
      }
      return tokens >= 1;
    },
  };
}
