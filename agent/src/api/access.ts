import { HoldfastError } from '@holdfast/common/errors.ts';
import type { Access } from '@holdfast/common/gate.ts';
import { hasRole } from '@holdfast/common/identity/identity.ts';

/** An agent obeys controllers of its zone and nobody else. */
export function agentAccess(zone: string): Access {
  return {
    admit: (_path, caller) => {
      if (hasRole(caller, ['controller'], zone)) return undefined;
      throw new HoldfastError(
        'PERMISSION_DENIED',
        `This agent obeys controllers of zone ${zone} only, and ${caller.name} is none.`,
      );
    },
  };
}
