import { HoldfastError } from '@holdfast/common/errors.ts';
import type { DeleteBackupRequest } from '@holdfast/proto/holdfast/agent/v1/agent.ts';
import type { OperationEvent } from '@holdfast/proto/holdfast/v1/event.ts';
import { OperationState } from '@holdfast/proto/holdfast/v1/operation.ts';
import type { Agents } from '../fleet/agents.ts';
import type { Hosts } from '../fleet/hosts.ts';
import type { Repositories } from '../fleet/repositories.ts';
import type { ActiveOperation, Journal } from './journal.ts';
import { tellStalls } from './tell-stalls.ts';

const READY_DEADLINE_MS = 3_000;

/**
 * Deletes a backup through the operation's host, or another of the zone when that one does not answer. Doing it twice
 * does no harm. Once it is wished to be cancelled, what was begun is finished and nothing else.
 *
 * @throws HoldfastError HOST_NOT_FOUND when the zone has no host, AGENT_UNREACHABLE when none answers, CANCELLED, and what
 *   the agent says
 */
export async function carryOutDelete(
  parts: {
    readonly journal: Journal;
    readonly hosts: Hosts;
    readonly agents: Agents;
    readonly repositories: Repositories;
    readonly now: () => Date;
  },
  { operation, startSent }: ActiveOperation,
  request: DeleteBackupRequest,
): Promise<void> {
  const { journal, hosts, agents, repositories, now } = parts;
  const { id, zone, host: own, correlationId } = operation;
  const note = (event: OperationEvent['event']) => journal.append(id, { event, time: now() });
  if (!(await journal.noteStart(id)) && !startSent) return;
  if (operation.lastSequence === 0n) await note({ $case: 'accepted', value: { stages: [] } });
  const candidates = (await hosts.list(zone))
    .filter((host) => !host.drained || host.name === own)
    .toSorted((one, other) => Number(other.name === own) - Number(one.name === own));
  let failure = new HoldfastError('HOST_NOT_FOUND', `Zone ${zone} has no host that could delete the backup.`);
  for (const host of candidates) {
    try {
      await agents.ready(host, READY_DEADLINE_MS);
      if (host.name !== own)
        await note({ $case: 'placed', value: { host: host.name, reason: `Host ${own} does not answer.` } });
      if (operation.state === OperationState.OPERATION_STATE_INTERRUPTED)
        await note({ $case: 'reattached', value: { host: host.name } });
      const led = await journal.active(id);
      if (led === undefined) return;
      const over = new AbortController();
      const telling = tellStalls(
        operation.repository,
        led.operation.stalledSince !== undefined,
        () => repositories.look(operation.repository, host, correlationId),
        note,
        over.signal,
      );
      const { freedBytes } = await agents
        .deleteBackup(host, { ...request, onlyBegun: led.cancelWanted }, correlationId)
        .finally(async () => {
          over.abort();
          await telling;
        });
      await note({
        $case: 'completed',
        value: { result: { $case: 'deletion', value: { freedBytes } } },
      });
      return;
    } catch (error) {
      if (!(error instanceof HoldfastError) || !isLost(error)) throw error;
      failure = new HoldfastError('AGENT_UNREACHABLE', error.message, { metadata: { host: host.name } });
    }
  }
  throw failure;
}

/** Whether it is not known what the agent has done. gRPC has a CANCELLED of its own for what an ending server drops. */
function isLost({ reason, metadata }: HoldfastError): boolean {
  return (
    ['AGENT_UNREACHABLE', 'SHUTTING_DOWN'].includes(reason) || (reason === 'CANCELLED' && !metadata['backup'])
  );
}
