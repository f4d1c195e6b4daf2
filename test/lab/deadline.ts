import { setTimeout as delay } from 'node:timers/promises';

/**
 * Asks `condition` again and again until it gives something other than undefined, and returns that.
 * @param milliseconds after which an Error with `what` (a sentence that says what was waited for) is thrown
 */
export async function until<T>(
  what: string,
  milliseconds: number,
  condition: () => Promise<T | undefined>,
  pauseMilliseconds = 100,
): Promise<T> {
  const end = performance.now() + milliseconds;
  while (true) {
    const answer = await condition();
    if (answer !== undefined) return answer;
    if (performance.now() > end) throw new Error(`${what}: not within ${milliseconds / 1000} s.`);
    await delay(pauseMilliseconds);
  }
}
