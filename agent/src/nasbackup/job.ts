import type { ClientDuplexStream } from '@grpc/grpc-js';
import { setTimeout as sleep } from 'node:timers/promises';
import { correlated } from '@holdfast/common/client.ts';
import { fromServiceError, fromStatus, HoldfastError } from '@holdfast/common/errors.ts';
import type {
  AgentServiceClient,
  Control,
  TakeBackupRequest,
  TakeBackupResponse,
  TakeBackupStart,
} from '@holdfast/proto/holdfast/agent/v1/agent.ts';
import type { BackupResult, Warning } from '@holdfast/proto/holdfast/v1/event.ts';

/** An agent that restarts is back within seconds; the job goes on meanwhile. */
const AGENT_AWAY_MS = 120_000;
const RETRY_MS = 1_000;

/** How a backup job ended. */
export interface JobEnd {
  readonly outcome: BackupResult | HoldfastError;
  readonly warnings: readonly Warning[];
}

interface Progress {
  started: boolean;
  sequence: bigint;
  lastSeenMs: number;
  readonly warnings: Warning[];
}

/**
 * Has the agent take a backup and follows the job to its end, over restarts of the agent.
 *
 * @param signal cancels the job; its end is then waited for
 * @throws HoldfastError AGENT_UNREACHABLE, and what the agent says of a request that it refuses.
 */
export async function runJob(
  agent: AgentServiceClient,
  start: TakeBackupStart,
  signal: AbortSignal,
): Promise<JobEnd> {
  const progress: Progress = { started: false, sequence: 0n, lastSeenMs: Date.now(), warnings: [] };
  for (;;) {
    try {
      const outcome = await follow(agent, start, progress, signal);
      if (outcome !== undefined) return { outcome, warnings: progress.warnings };
    } catch (error) {
      const known = fromServiceError(error);
      const isAway =
        known instanceof HoldfastError && ['AGENT_UNREACHABLE', 'SHUTTING_DOWN'].includes(known.reason);
      if (!isAway || !progress.started || Date.now() - progress.lastSeenMs > AGENT_AWAY_MS) throw known;
    }
    await sleep(RETRY_MS);
  }
}

/** Follows the job on one stream; undefined when the stream ends before the job does. */
async function follow(
  agent: AgentServiceClient,
  start: TakeBackupStart,
  progress: Progress,
  signal: AbortSignal,
): Promise<JobEnd['outcome'] | undefined> {
  const jobId = start.header?.jobId ?? '';
  const stream: ClientDuplexStream<TakeBackupRequest, TakeBackupResponse> = agent.takeBackup(
    correlated(jobId),
  );
  // The iterator sees the error as well; without a listener, one after its end would end the process.
  stream.on('error', () => undefined);
  const tell = (command: NonNullable<Control['command']>): void => {
    if (stream.writable) stream.write({ message: { $case: 'control', value: { command } } });
  };
  const cancel = (): void => {
    tell({ $case: 'cancel', value: {} });
  };
  if (progress.started) {
    const { sequence: afterSequence } = progress;
    const credentials = start.repository?.credentials;
    tell({ $case: 'attach', value: { jobId, afterSequence, fencingEpoch: 0n, credentials } });
  } else {
    stream.write({ message: { $case: 'start', value: start } });
  }
  if (signal.aborted) cancel();
  signal.addEventListener('abort', cancel);
  try {
    for await (const message of stream as AsyncIterable<TakeBackupResponse>) {
      const { event, sequence } = message.event ?? { event: undefined, sequence: 0n };
      progress.started = true;
      progress.lastSeenMs = Date.now();
      if (sequence > progress.sequence) progress.sequence = sequence;
      if (event?.$case === 'warning') progress.warnings.push(event.value);
      if (event?.$case === 'failed') return fromStatus(event.value);
      if (event?.$case === 'completed' && event.value.result?.$case === 'backup')
        return event.value.result.value;
    }
    return undefined;
  } finally {
    signal.removeEventListener('abort', cancel);
    tell({ $case: 'ack', value: { sequence: progress.sequence } });
    stream.end();
  }
}
