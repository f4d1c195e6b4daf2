import { HoldfastError } from '@holdfast/common/errors.ts';
import type { Admission } from '../admission/admission.ts';
import type { Agents } from '../fleet/agents.ts';
import { findDomain } from '../fleet/find-domain.ts';
import type { Hosts } from '../fleet/hosts.ts';
import type { Placement } from '../fleet/placement.ts';
import type { ActiveOperation, Journal } from './journal.ts';

export interface TurnParts {
  readonly journal: Journal;
  readonly hosts: Hosts;
  readonly agents: Agents;
  readonly admission: Admission;
  readonly now: () => Date;
  readonly stopping: AbortSignal;
}

/**
 * Waits until an operation may begin, and finds out anew where its domain is when that took a while.
 *
 * @returns the operation with its host; undefined when it has ended meanwhile
 * @throws HoldfastError DOMAIN_NOT_FOUND when the domain is gone
 */
export async function takeTurn(
  parts: TurnParts,
  before: ActiveOperation,
): Promise<ActiveOperation | undefined> {
  const { journal, admission, stopping } = parts;
  const { id } = before.operation;
  let active: ActiveOperation | undefined = before;
  while (active !== undefined) {
    const admitted = await admission.enter(active.operation, stopping);
    switch (admitted.kind) {
      case 'at once':
        return active;
      case 'gone':
        return await journal.active(id);
      case 'look elsewhere':
        await place(parts, active, await elsewhere(parts, active));
        break;
      case 'after waiting': {
        await place(parts, active, admitted.placement);
        const moved = await elsewhere(parts, active);
        if (moved === undefined) return await journal.active(id);
        await place(parts, active, moved);
        // The slot was one of the host on which the domain is not any more.
        await admission.giveBack(active.operation);
      }
    }
    active = await journal.active(id);
  }
  return undefined;
}

async function place(
  { journal, now }: TurnParts,
  { operation }: ActiveOperation,
  placement: Placement | undefined,
): Promise<void> {
  if (placement === undefined || placement.host === operation.host) return;
  await journal.append(operation.id, { event: { $case: 'placed', value: placement }, time: now() });
}

/** Where the domain of a backup is, when it is not where it was. */
async function elsewhere(
  parts: TurnParts,
  { operation, job }: ActiveOperation,
): Promise<Placement | undefined> {
  if (job.kind !== 'take') return undefined;
  const { zone, host, domainUuid: domain, correlationId } = operation;
  try {
    const found = await findDomain(parts, { zone, domain, host: '', present: host }, correlationId);
    return found.host.name === host ? undefined : { host: found.host.name, reason: found.reason };
  } catch (error) {
    // Unless it is known to be gone, it is tried where it was.
    if (isGone(error)) throw error;
    return undefined;
  }
}

function isGone(error: unknown): boolean {
  return error instanceof HoldfastError && error.reason === 'DOMAIN_NOT_FOUND';
}
