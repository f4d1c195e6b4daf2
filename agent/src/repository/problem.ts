import type { Reason } from '@holdfast/common/reasons.ts';

/**
 * What a helper process found wrong with its repository; its parent makes a HoldfastError of it, which names the
 * repository. A class of its own because a helper starts in no time only without the modules behind HoldfastError.
 */
export class RepositoryProblem extends Error {
  override readonly name = 'RepositoryProblem';
  readonly reason: Reason;

  constructor(reason: Reason, message: string, options: { readonly cause?: unknown } = {}) {
    super(message, options);
    this.reason = reason;
  }
}
