import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import type { OperationEvent } from '@holdfast/proto/holdfast/v1/event.ts';

const EVERY_MS = 2_000;

/** What a host said of a repository: that it answers, since when it does not, or nothing. */
export type Answer = { readonly stalledSince: Date | undefined } | undefined;

/**
 * Tells whether a repository answers, for work of an agent that says nothing until it ends. Returns soon after the signal
 * aborts, and tells nothing more.
 *
 * @param isStalled as of the last event
 */
export async function tellStalls(
  repository: string,
  isStalled: boolean,
  look: () => Promise<Answer>,
  tell: (event: OperationEvent['event']) => Promise<void>,
  signal: AbortSignal,
): Promise<void> {
  const over = once(signal, 'abort').then(() => undefined);
  let since = isStalled ? new Date() : undefined;
  for (;;) {
    await sleep(EVERY_MS, undefined, { signal }).catch(() => undefined);
    const answer = await Promise.race([look(), over]);
    if (signal.aborted) return;
    if (answer?.stalledSince !== undefined && since === undefined) {
      since = answer.stalledSince;
      await tell({ $case: 'repositoryStalled', value: { repository, since, giveUpTime: undefined } });
    } else if (answer !== undefined && answer.stalledSince === undefined && since !== undefined) {
      const stalledMs = BigInt(Date.now() - since.getTime());
      since = undefined;
      await tell({ $case: 'repositoryAnswered', value: { repository, stalledMs } });
    }
  }
}
