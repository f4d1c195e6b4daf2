import { MIB } from '@holdfast/common/bytes.ts';
import { HoldfastError } from '@holdfast/common/errors.ts';
import { requireScratchSpace, scratchSpace } from '../stages/scratch.ts';
import type { TransportName } from './transport.ts';

/** The transport of a backup, with the reason in words. */
export interface ChosenTransport {
  readonly name: TransportName;
  readonly reason: string;
  /** Whether the user may not have expected it. */
  readonly unexpected: boolean;
}

/**
 * Chooses how the data leaves the domain.
 *
 * @param wanted auto, pull, push, or empty, which is auto
 * @param scratchRoot the directory on local disk that holds the scratch images of all jobs; made when it is not there
 * @throws HoldfastError SCRATCH_FULL, SCRATCH_FAILED when pull was asked for and there is too little space for it
 */
export async function chooseTransport(
  wanted: string,
  running: boolean,
  scratchRoot: string,
): Promise<ChosenTransport> {
  if (!running) {
    const reason = 'The domain is shut off, so its images are read where they lie.';
    return { name: 'direct', reason, unexpected: false };
  }
  if (wanted === 'push') return { name: 'push', reason: 'Push was asked for.', unexpected: false };
  try {
    await requireScratchSpace(scratchRoot);
  } catch (error) {
    if (wanted === 'pull' || !(error instanceof HoldfastError)) throw error;
    const reason =
      error.reason === 'SCRATCH_FULL'
        ? `There is too little scratch space for pull: ${await freeMib(scratchRoot)} MiB are free in ${scratchRoot}.`
        : `There is no scratch space for pull: ${scratchRoot} cannot be written to.`;
    return { name: 'push', reason, unexpected: true };
  }
  const reason =
    wanted === 'pull'
      ? 'Pull was asked for.'
      : `There is enough scratch space for pull: ${await freeMib(scratchRoot)} MiB are free in ${scratchRoot}.`;
  return { name: 'pull', reason, unexpected: false };
}

async function freeMib(directory: string): Promise<number> {
  return Math.floor((await scratchSpace(directory)).freeBytes / MIB);
}
