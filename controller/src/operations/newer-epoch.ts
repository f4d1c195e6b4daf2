import { fromServiceError, HoldfastError } from '@holdfast/common/errors.ts';

/** The epoch that an agent knows and that is newer than ours, although the operation is ours. */
export function newerEpoch(thrown: unknown): bigint | undefined {
  const error = fromServiceError(thrown);
  if (!(error instanceof HoldfastError) || error.reason !== 'STALE_EPOCH') return undefined;
  const { epoch = '' } = error.metadata;
  return /^\d{1,15}$/.test(epoch) ? BigInt(epoch) : undefined;
}
