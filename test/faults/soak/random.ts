/** Chance that is the same for the same seed. */
export interface Random {
  /** A whole number from 0 to `limit` - 1. */
  below(limit: number): number;
  /** One of several; those with a weight as often as that. */
  pick<Choice>(choices: readonly (readonly [weight: number, choice: Choice])[]): Choice;
}

/** By the mulberry32 generator of 32 bits: nothing here needs a better one. */
export function randomOf(seed: number): Random {
  let state = seed >>> 0;
  const next = (): number => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
  const below: Random['below'] = (limit) => Math.floor(next() * limit);
  return {
    below,
    pick: (choices) => {
      let left = below(choices.reduce((sum, [weight]) => sum + weight, 0));
      for (const [weight, choice] of choices) {
        left -= weight;
        if (left < 0) return choice;
      }
      throw new Error('There is nothing to pick from.');
    },
  };
}
