import { coalescingKey } from '@holdfast/common/events.ts';
import { correlated } from '@holdfast/common/client.ts';
import { HoldfastError, toStatus } from '@holdfast/common/errors.ts';
import type { Logger } from '@holdfast/common/logger.ts';
import type { Attach, JobHeader } from '@holdfast/proto/holdfast/agent/v1/agent.ts';
import type { OperationEvent } from '@holdfast/proto/holdfast/v1/event.ts';
import { OperationState } from '@holdfast/proto/holdfast/v1/operation.ts';
import type { Budget } from '../admission/budget.ts';
import type { Agents } from '../fleet/agents.ts';
import type { Hosts } from '../fleet/hosts.ts';
import type { Repositories } from '../fleet/repositories.ts';
import type { Keys } from '../keys/keys.ts';
import { openAgentStream, type AgentStream } from './agent-stream.ts';
import { isWholeResult } from './conclude.ts';
import type { StreamedJob } from './job.ts';
import type { ActiveOperation, Journal } from './journal.ts';
import { isLast } from './reduce.ts';

const SECOND = 1_000;
const READY_DEADLINE_MS = 3 * SECOND;
/** How long the agent may take to hear the last acknowledgement and end the stream. */
const GOODBYE_DEADLINE_MS = 5 * SECOND;

export interface FollowParts {
  readonly journal: Journal;
  readonly hosts: Hosts;
  readonly agents: Agents;
  readonly repositories: Repositories;
  readonly keys: Keys;
  readonly budget: Budget;
  readonly now: () => Date;
  readonly logger: Logger;
  /** Where others find the stream to steer the job. */
  readonly streams: Map<string, AgentStream>;
  readonly stopping: AbortSignal;
}

/**
 * Follows a job on one stream, from its start or from where it was left, until the stream ends. Every event is stored
 * before it is acknowledged.
 *
 * @param onContact the agent has answered
 * @returns once the stream has ended well; the job may go on. Throws what broke the stream.
 */
export async function followJob(
  parts: FollowParts,
  active: ActiveOperation,
  job: StreamedJob,
  onContact: () => void,
): Promise<void> {
  const { journal, hosts, agents, budget, streams, stopping } = parts;
  const { id, host, correlationId } = active.operation;
  const place = await hosts.find(host);
  await agents.ready(place, READY_DEADLINE_MS);
  // A start that may have arrived and is not wanted any more is looked for, not repeated.
  const attach = active.accepted || (active.startSent && active.cancelWanted);
  const wholeJob = attach ? job : await withShare(parts, active, await withZoneKey(parts.keys, job));
  if (!attach && !(await journal.noteStart(id))) return;
  stopping.throwIfAborted();

  const stream = openAgentStream(agents.client(place), wholeJob, correlated(correlationId));
  stopping.addEventListener('abort', stream.drop);
  streams.set(id, stream);
  let goodbye: NodeJS.Timeout | undefined;
  stream.onTaken(onContact);
  const reattached = noteReattached(parts, active, stream);
  try {
    if (attach) stream.control({ $case: 'attach', value: attachTo(active, job) });
    else stream.start(headerOf(active));
    if (isSharer(job)) budget.follow(active.operation, stream);
    // A wish that came before the stream was in the map is passed on here, a later one by whoever has it.
    if ((await journal.active(id))?.cancelWanted === true) stream.control({ $case: 'cancel', value: {} });
    const handle = async (event: OperationEvent): Promise<void> => {
      await reattached.promise;
      await handleEvent(parts, active, stream, event);
      if (!isLast(event)) return;
      stream.end();
      goodbye ??= setTimeout(stream.drop, GOODBYE_DEADLINE_MS);
    };
    await stream.read(({ event }) => {
      if (event === undefined) return undefined;
      budget.note(id, event);
      if (event.event === undefined || coalescingKey(event) === undefined) return handle(event);
      journal.progress(id, { event: event.event, time: event.time ?? parts.now() });
      return undefined;
    });
  } catch (error) {
    // After the last event, how the stream ends is of no interest.
    if (goodbye === undefined) throw error;
  } finally {
    clearTimeout(goodbye);
    reattached.resolve(undefined);
    stopping.removeEventListener('abort', stream.drop);
    streams.delete(id);
    budget.unfollow(id);
    stream.drop();
  }
}

/** Notes that the agent answers again, before its first event and also when none comes. */
function noteReattached(
  { journal, now, logger }: FollowParts,
  { operation }: ActiveOperation,
  stream: AgentStream,
): PromiseWithResolvers<undefined> {
  const noted = Promise.withResolvers<undefined>();
  const { id, host, state } = operation;
  if (state !== OperationState.OPERATION_STATE_INTERRUPTED) {
    noted.resolve(undefined);
    return noted;
  }
  stream.onTaken(() => {
    journal
      .append(id, { event: { $case: 'reattached', value: { host } }, time: now() })
      .catch((error: unknown) => {
        // Without it the operation would stay as unknown as it was: the stream is begun anew.
        logger.warn('that the agent answers was not noted', { operationId: id, error });
        stream.drop();
      })
      .finally(() => {
        noted.resolve(undefined);
      });
  });
  return noted;
}

async function handleEvent(
  { journal, repositories, now }: FollowParts,
  { operation, job }: ActiveOperation,
  stream: AgentStream,
  received: OperationEvent,
): Promise<void> {
  const time = received.time ?? now();
  if (received.event === undefined) return;
  const event: OperationEvent['event'] = isWholeResult(job, received.event)
    ? received.event
    : { $case: 'failed', value: toStatus(new HoldfastError('INTERNAL', 'The agent sent no result.')) };
  await journal.append(operation.id, { event, time, agentSequence: received.sequence });
  stream.control({ $case: 'ack', value: { sequence: received.sequence } });
  repositories.noteEvent(operation.repository, operation.host, received);
}

/** The key file takes a second to make, so that it is made here and not while the caller waits. */
async function withZoneKey(keys: Keys, job: StreamedJob): Promise<StreamedJob> {
  if (job.kind !== 'take' || job.start.key === undefined) return job;
  const zoneKeyFile = await keys.zoneKeyFile(job.start.key.keyId);
  return { kind: 'take', start: { ...job.start, key: { ...job.start.key, zoneKeyFile } } };
}

/** What the work of the zone leaves for it: it keeps to that from the first byte on. */
async function withShare(
  { budget, stopping }: FollowParts,
  { operation }: ActiveOperation,
  job: StreamedJob,
): Promise<StreamedJob> {
  if (!isSharer(job)) return job;
  const bandwidthShareBytesPerSecond = BigInt(await budget.join(operation, stopping));
  switch (job.kind) {
    case 'take': {
      const { options } = job.start;
      const withIt = options && { ...options, bandwidthShareBytesPerSecond };
      return { kind: 'take', start: { ...job.start, options: withIt } };
    }
    case 'verify':
      return { kind: 'verify', start: { ...job.start, bandwidthShareBytesPerSecond } };
    case 'restore':
      return { kind: 'restore', start: { ...job.start, bandwidthShareBytesPerSecond } };
  }
}

/** Whether it has a share of the zone's bandwidth: a look at metadata alone reads next to nothing. */
function isSharer(job: StreamedJob): boolean {
  return job.kind !== 'verify' || !['', 'metadata'].includes(job.start.level);
}

function headerOf({ operation, fencingEpoch }: ActiveOperation): JobHeader {
  const { id, zone, host, correlationId } = operation;
  return { jobId: id, zone, fencingEpoch, correlationId, host };
}

function attachTo({ operation, agentSequence, fencingEpoch }: ActiveOperation, job: StreamedJob): Attach {
  const repository = job.kind === 'take' ? job.start.repository : job.start.backup?.repository;
  const credentials = repository?.credentials;
  return { jobId: operation.id, afterSequence: agentSequence, fencingEpoch, credentials };
}
