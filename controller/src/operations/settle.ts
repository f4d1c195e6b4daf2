import { randomUUID } from 'node:crypto';
import { correlated } from '@holdfast/common/client.ts';
import { HoldfastError } from '@holdfast/common/errors.ts';
import type { Logger } from '@holdfast/common/logger.ts';
import type { Job as AgentJob } from '@holdfast/proto/holdfast/agent/v1/agent.ts';
import type { Host } from '@holdfast/proto/holdfast/v1/host.ts';
import type { Operation } from '@holdfast/proto/holdfast/v1/operation.ts';
import type { Agents } from '../fleet/agents.ts';
import { openAgentStream } from './agent-stream.ts';
import { decodeJob } from './job.ts';
import type { Journal } from './journal.ts';
import { isEnded } from './reduce.ts';

const SECOND = 1_000;
const SETTLE_DEADLINE_MS = 10 * SECOND;

interface SettleParts {
  readonly journal: Journal;
  readonly agents: Agents;
  readonly logger: Logger;
  readonly stopping: AbortSignal;
}

/**
 * Acknowledges the ends of jobs that are stored here and that the agent still keeps, since the acknowledgement was lost
 * when a controller died between the two. A host that does not answer is left for the next start.
 */
export async function settleHost(parts: SettleParts, host: Host): Promise<void> {
  const correlationId = randomUUID();
  try {
    const { jobs } = await parts.agents.listJobs(host, correlationId);
    for (const job of jobs.filter((each) => each.finished)) {
      if (parts.stopping.aborted) return;
      const operation = await findKnown(parts.journal, job.jobId);
      if (operation !== undefined && isEnded(operation.state)) await settleJob(parts, host, operation, job);
    }
  } catch (error) {
    if (!(error instanceof HoldfastError)) throw error;
    parts.logger.info('finished jobs of a host were not looked for', {
      correlationId,
      host: host.name,
      detail: error.message,
    });
  }
}

async function settleJob(
  { journal, agents, stopping, logger }: SettleParts,
  host: Host,
  operation: Operation,
  job: AgentJob,
): Promise<void> {
  // Only the kind counts: nothing is started.
  const kept = decodeJob(operation.kind, new Uint8Array());
  const fencingEpoch = await journal.fencingEpoch(operation.id);
  if (kept.kind === 'delete' || kept.kind === 'keys' || fencingEpoch === undefined) return;
  const stream = openAgentStream(agents.client(host), kept, correlated(operation.correlationId));
  const deadline = setTimeout(stream.drop, SETTLE_DEADLINE_MS);
  stopping.addEventListener('abort', stream.drop);
  try {
    const { jobId, lastSequence } = job;
    stream.control({
      $case: 'attach',
      value: { jobId, afterSequence: lastSequence, fencingEpoch, credentials: undefined },
    });
    stream.control({ $case: 'ack', value: { sequence: lastSequence } });
    stream.end();
    await stream.read(() => undefined);
  } catch (error) {
    logger.info('the end of a job was not acknowledged', { operationId: operation.id, error });
  } finally {
    clearTimeout(deadline);
    stopping.removeEventListener('abort', stream.drop);
  }
}

async function findKnown(journal: Journal, operationId: string): Promise<Operation | undefined> {
  try {
    return await journal.find(operationId);
  } catch (error) {
    if (error instanceof HoldfastError && error.reason === 'OPERATION_NOT_FOUND') return undefined;
    throw error;
  }
}
