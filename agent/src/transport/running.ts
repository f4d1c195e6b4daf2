import { HoldfastError } from '@holdfast/common/errors.ts';
import type { Prepared } from '../stages/prepare.ts';

/** A copy that broke because the domain is gone did not break because of the repository. */
export function domainStopped(prepared: Prepared, state: string): HoldfastError {
  return new HoldfastError(
    'DOMAIN_STOPPED',
    `Domain ${JSON.stringify(prepared.domain.name)} is ${state} now, its QEMU ended in the middle of the backup. ` +
      'Take the backup again.',
    { metadata: { state } },
  );
}
