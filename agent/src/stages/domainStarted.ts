import { HoldfastError } from '@holdfast/common/errors.ts';
import type { DomainId } from '../libvirt/domains.ts';

export function domainStarted(domain: Pick<DomainId, 'name'>): HoldfastError {
  return new HoldfastError(
    'DOMAIN_STARTED',
    `Domain ${JSON.stringify(domain.name)} was started while its images were read, so the copy was thrown ` +
      'away. Take the backup again: it will be one of a running domain.',
  );
}
