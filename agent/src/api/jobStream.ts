import { once } from 'node:events';
import { Metadata, type handleBidiStreamingCall, type ServerDuplexStream } from '@grpc/grpc-js';
import { correlationIdOf, flushed, logFailure } from '@holdfast/common/call.ts';
import { HoldfastError, toServiceError } from '@holdfast/common/errors.ts';
import type { Control, JobHeader } from '@holdfast/proto/holdfast/agent/v1/agent.ts';
import type { Goodbye, OperationEvent } from '@holdfast/proto/holdfast/v1/event.ts';
import type { JobKind } from '../jobs/spec.ts';
import type { AgentParts } from './service.ts';
import { requireBandwidth, requireField, requireShare, requireZone } from './validate.ts';

const HALF_CLOSE_DEADLINE_MS = 5_000;

/** The one shape of the three streams. */
interface JobRequest<Start> {
  readonly message?:
    | { readonly $case: 'start'; readonly value: Start }
    | { readonly $case: 'control'; readonly value: Control }
    | undefined;
}

interface JobResponse {
  readonly event: OperationEvent | undefined;
  readonly goodbye: Goodbye | undefined;
}

/** The job of a stream, and the epoch of the controller at its other end. */
interface Followed {
  readonly jobId: string;
  readonly epoch: bigint;
  readonly afterSequence: bigint;
}

/**
 * Serves a job's stream: `start` or `attach` first, then commands one way and events the other. The stream's end, of
 * whatever kind, is not the job's.
 *
 * @param accept checks a start message and gives it as JSON
 */
export function jobStream<Start extends { readonly header?: JobHeader | undefined }>(
  parts: AgentParts,
  kind: JobKind,
  accept: (start: Start) => string,
): handleBidiStreamingCall<JobRequest<Start>, JobResponse> {
  return (call) => {
    const gone = new AbortController();
    call.on('cancelled', () => {
      gone.abort();
    });
    const logger = parts.logger.child({ correlationId: correlationIdOf(call.metadata) });
    const fail = (error: unknown): void => {
      if (gone.signal.aborted) return;
      logFailure({ logger }, call.getPath(), error);
      gone.abort();
      call.emit('error', toServiceError(error));
    };
    let sent = 0n;
    const sayGoodbye = (): void => {
      call.write({ event: undefined, goodbye: { resumeAfterSequence: sent } });
      void flushed(call, gone.signal).then(() => {
        fail(
          new HoldfastError(
            'SHUTTING_DOWN',
            'The agent stops. The job goes on; attach again once the agent is back.',
          ),
        );
      });
    };
    if (parts.stopping.aborted) {
      sayGoodbye();
      return;
    }
    parts.stopping.addEventListener('abort', sayGoodbye, { once: true, signal: gone.signal });
    let job: Promise<Followed> | undefined;
    let commands: Promise<void> = Promise.resolve();

    call.on('data', (request: JobRequest<Start>) => {
      if (job === undefined) {
        job = begin(parts, kind, accept, request);
        job
          .then((followed) => {
            // Says that the job was taken or found, also when it has nothing to tell for long.
            call.sendMetadata(new Metadata());
            return sendEvents(parts, call, followed, gone.signal, (sequence) => {
              sent = sequence;
            });
          })
          .catch(fail);
        return;
      }
      const known = job;
      // In order: a pause and a resume must not overtake each other.
      commands = commands.then(async () => obey(parts, await known, request)).catch(fail);
    });
    call.on('end', () => {
      if (job === undefined)
        fail(new HoldfastError('INVALID_REQUEST', 'The first message must be start or attach.'));
    });
    call.on('error', () => {
      gone.abort();
    });
  };
}

async function begin<Start extends { readonly header?: JobHeader | undefined }>(
  parts: AgentParts,
  kind: JobKind,
  accept: (start: Start) => string,
  request: JobRequest<Start>,
): Promise<Followed> {
  const { message } = request;
  if (message?.$case === 'start') {
    const header = requireField(message.value.header, 'header');
    requireZone(parts.zone, header.zone);
    const start = accept(message.value);
    await parts.epochs.accept(header.jobId, header.fencingEpoch);
    await parts.jobs.start(kind, header, start);
    return { jobId: header.jobId, epoch: header.fencingEpoch, afterSequence: 0n };
  }
  const command = message?.value.command;
  if (command?.$case === 'attach') {
    const { jobId, fencingEpoch, afterSequence, credentials } = command.value;
    await parts.jobs.requireKnown(jobId);
    await parts.epochs.accept(jobId, fencingEpoch);
    parts.jobs.remember(jobId, credentials);
    return { jobId, epoch: fencingEpoch, afterSequence };
  }
  throw new HoldfastError('INVALID_REQUEST', 'The first message must be start or attach.');
}

async function obey(parts: AgentParts, job: Followed, request: JobRequest<unknown>): Promise<void> {
  const { message } = request;
  if (message?.$case !== 'control') {
    throw new HoldfastError('INVALID_REQUEST', 'A job is started once; only control messages may follow.');
  }
  const command = message.value.command;
  if (command === undefined) throw new HoldfastError('INVALID_REQUEST', 'control has no command.');
  if (command.$case === 'attach')
    throw new HoldfastError('INVALID_REQUEST', 'The stream follows a job already.');
  if (command.$case === 'ack') return;
  if (command.$case === 'setBandwidth') requireBandwidth(command.value.limitMibps);
  if (command.$case === 'setShare') requireShare(command.value.bytesPerSecond);
  await parts.epochs.require(job.jobId, job.epoch);
  await parts.jobs.command(job.jobId, message.value);
}

async function sendEvents<Start>(
  parts: AgentParts,
  call: ServerDuplexStream<JobRequest<Start>, JobResponse>,
  job: Followed,
  signal: AbortSignal,
  onSent: (sequence: bigint) => void,
): Promise<void> {
  for await (const event of parts.jobs.follow(job.jobId, job.afterSequence, signal)) {
    if (signal.aborted) return;
    const isAhead = call.write({ event, goodbye: undefined });
    onSent(event.sequence);
    if (!isAhead) await once(call, 'drain', { signal });
  }
  // The last event's acknowledgement may be on its way; the peer half-closes once it has sent it.
  if (!call.readableEnded) {
    await once(call, 'end', {
      signal: AbortSignal.any([signal, AbortSignal.timeout(HALF_CLOSE_DEADLINE_MS)]),
    }).catch(() => undefined);
  }
  if (!signal.aborted) call.end();
}
