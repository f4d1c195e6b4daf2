import { HoldfastError } from '@holdfast/common/errors.ts';
import type { DeleteBackupRequest } from '@holdfast/proto/holdfast/agent/v1/agent.ts';
import type { Agents } from '../fleet/agents.ts';
import type { Hosts } from '../fleet/hosts.ts';
import type { ActiveOperation, Journal } from './journal.ts';

/**
 * Deletes a backup through the operation's host, or another of the zone when that one does not answer. Doing it twice
 * does no harm.
 *
 * @throws HoldfastError HOST_NOT_FOUND when the zone has no host, and what the agent says
 */
export async function carryOutDelete(
  parts: {
    readonly journal: Journal;
    readonly hosts: Hosts;
    readonly agents: Agents;
    readonly now: () => Date;
  },
  { operation, startSent }: ActiveOperation,
  request: DeleteBackupRequest,
): Promise<void> {
  const { journal, hosts, agents, now } = parts;
  if (!(await journal.noteStart(operation.id)) && !startSent) return;
  if (operation.lastSequence === 0n) {
    await journal.append(operation.id, { event: { $case: 'accepted', value: { stages: [] } }, time: now() });
  }
  const zoneHosts = await hosts.list(operation.zone);
  const candidates = zoneHosts
    .filter((host) => !host.drained || host.name === operation.host)
    .toSorted((one, other) => Number(other.name === operation.host) - Number(one.name === operation.host));
  let failure = new HoldfastError(
    'HOST_NOT_FOUND',
    `Zone ${operation.zone} has no host that could delete the backup.`,
  );
  for (const host of candidates) {
    try {
      if (host.name !== operation.host) {
        const reason = `Host ${operation.host} does not answer.`;
        await journal.append(operation.id, {
          event: { $case: 'placed', value: { host: host.name, reason } },
          time: now(),
        });
      }
      const { freedBytes } = await agents.deleteBackup(host, request, operation.correlationId);
      await journal.append(operation.id, {
        event: { $case: 'completed', value: { result: { $case: 'deletion', value: { freedBytes } } } },
        time: now(),
      });
      return;
    } catch (error) {
      if (!(error instanceof HoldfastError) || error.reason !== 'AGENT_UNREACHABLE') throw error;
      failure = error;
    }
  }
  throw failure;
}
