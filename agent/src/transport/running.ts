import { HoldfastError } from '@holdfast/common/errors.ts';
import { stateOrGone } from '../libvirt/domains.ts';
import type { Virsh } from '../libvirt/virsh.ts';
import type { Prepared } from '../stages/prepare.ts';

/** States in which QEMU is there, and what to take it for when libvirt does not say. */
const RUNNING = ['running', 'paused', 'unknown'];

/** Why something failed, when it did because the domain has ended meanwhile; undefined when it has not. */
export async function domainEnded(
  virsh: Virsh,
  prepared: Pick<Prepared, 'domain'>,
): Promise<HoldfastError | undefined> {
  const state = await stateOrGone(virsh, prepared.domain.uuid).catch(() => 'unknown');
  return RUNNING.includes(state) ? undefined : domainStopped(prepared, state);
}

/** A copy that broke because the domain is gone did not break because of the repository. */
export function domainStopped({ domain }: Pick<Prepared, 'domain'>, state: string): HoldfastError {
  return new HoldfastError(
    'DOMAIN_STOPPED',
    `Domain ${JSON.stringify(domain.name)} is ${state} now, its QEMU ended in the middle of the backup. ` +
      'Take the backup again.',
    { metadata: { state } },
  );
}
