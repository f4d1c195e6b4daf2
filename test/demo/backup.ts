import type { Guest } from '../lab/guest.ts';
import type { User } from './user.ts';

/** What the demo reads of an operation, in the JSON that `holdfast --json` prints. */
interface OperationLine {
  readonly id: string;
}

interface EventLine {
  readonly stageStarted?: { readonly stage: string };
  readonly stageProgress?: {
    readonly stage: string;
    readonly figures: { readonly inputBytes: string };
  };
}

/** What is backed up, and how. */
export interface Order {
  readonly guest: Guest;
  /** The arguments of `holdfast backup`. */
  readonly args: readonly string[];
  /** The limit is lifted when so much data has been read. */
  readonly halfBytes: number;
}

/** Text of the file that is written in the guest while it is backed up. */
export const duringText = 'Written while the backup ran.\n';

/**
 * Backs the guest up as a person would, with a second terminal in which the limit is lifted half way. While data is
 * copied, the guest writes /during.txt.
 */
export async function backUp(user: User, order: Order): Promise<void> {
  const backup = user.types(['backup', ...order.args], { terminal: '1| ' });
  const ended = new AbortController();
  await Promise.all([
    backup.finally(() => {
      ended.abort();
    }),
    steer(user, order, ended.signal),
  ]);
}

async function steer(user: User, { guest, halfBytes }: Order, over: AbortSignal): Promise<void> {
  const operation = await activeOperation(user, over);
  if (operation === undefined) return;
  for await (const line of user.asks(['watch', operation])) {
    const event = line as EventLine;
    if (event.stageStarted?.stage === 'STAGE_BLOCKJOB') await guest.writeFile('/data/during.txt', duringText);
    const { stage, figures } = event.stageProgress ?? {};
    if (stage !== 'STAGE_BLOCKJOB' || Number(figures?.inputBytes ?? 0) < halfBytes) continue;
    await user.types(['set-bandwidth', operation, '0'], { terminal: '2| ' });
    return;
  }
}

/** The operation that runs; undefined when there is none before `over`. */
async function activeOperation(user: User, over: AbortSignal): Promise<string | undefined> {
  while (!over.aborted) {
    for await (const line of user.asks(['operations', '--active'])) return (line as OperationLine).id;
  }
  return undefined;
}
