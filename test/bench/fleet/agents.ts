/** The process of the fake agents: real gRPC servers, each with jobs that do nothing but tell how far they are. */
import path from 'node:path';
import {
  Server,
  ServerCredentials,
  type sendUnaryData,
  type ServerDuplexStream,
  type ServerUnaryCall,
} from '@grpc/grpc-js';
import { HealthImplementation } from 'grpc-health-check';
import { HoldfastError, toServiceError } from '@holdfast/common/errors.ts';
import {
  AgentServiceService,
  GetHostResponse,
  type GetHostRequest,
  type TakeBackupRequest,
  type TakeBackupResponse,
  type TakeBackupStart,
} from '@holdfast/proto/holdfast/agent/v1/agent.ts';
import { BackupResult, Stage, type OperationEvent } from '@holdfast/proto/holdfast/v1/event.ts';
import { Manifest } from '@holdfast/proto/holdfast/v1/manifest.ts';
import { markOf } from './arrivals.ts';
import type { Order, Report } from './generator.ts';

const TICK_MS = 10;
const SLOTS = 1_000 / TICK_MS;
/** A state event of each job once in so many seconds. */
const STATE_EVENT_SECONDS = 30;
/** So many jobs end in a tick. */
const ENDING = 5;

type Happening = NonNullable<OperationEvent['event']>;

interface Job {
  readonly start: TakeBackupStart;
  stream: ServerDuplexStream<TakeBackupRequest, TakeBackupResponse>;
  /** State events, none of which may be lost. */
  readonly events: OperationEvent[];
  seconds: number;
  ended: boolean;
}

const [directory = '', agents = '0', domains = '0'] = process.argv.slice(2);
const jobs = new Map<string, Job>();
const slots: Job[][] = Array.from({ length: SLOTS }, () => []);

let events = 0;

function write(stream: Job['stream'], event: OperationEvent): void {
  events += 1;
  stream.write({ event, goodbye: undefined });
}

function emit(job: Job, event: Happening): void {
  const numbered = { sequence: BigInt(job.events.length + 1), time: new Date(), event };
  job.events.push(numbered);
  write(job.stream, numbered);
}

/** What a job tells each second. */
function tellProgress(job: Job): void {
  job.seconds += 1;
  const done = BigInt(job.seconds) << 24n;
  const figures = {
    ...{ processedBytes: done, totalBytes: 1n << 40n, inputBytes: done, outputBytes: done / 2n },
    elapsedMs: BigInt(job.seconds * 1_000),
  };
  const event = {
    $case: 'stageProgress',
    value: { stage: Stage.STAGE_BLOCKJOB, figures, disks: [] },
  } as const;
  write(job.stream, { sequence: BigInt(job.events.length), time: new Date(), event });
  if (job.seconds % STATE_EVENT_SECONDS === 0) {
    emit(job, { $case: 'bandwidthApplied', value: { limitMibps: BigInt(job.seconds) } });
  }
}

function end(job: Job): void {
  job.ended = true;
  emit(job, {
    $case: 'stageFinished',
    value: { stage: Stage.STAGE_BLOCKJOB, figures: undefined, disks: [] },
  });
  const { backupId, domain } = job.start;
  const manifest = Manifest.fromPartial({
    ...{ version: 1, backupId, domainUuid: domain, domainName: domain, snapshotTime: new Date() },
    disks: [{ target: 'vda', virtualSizeBytes: 1n << 30n, dataBytes: 1n << 29n, storedBytes: 1n << 28n }],
  });
  const value = BackupResult.fromPartial({
    path: `at/${backupId}`,
    manifestSha256: 'ab'.repeat(32),
    manifest,
  });
  emit(job, { $case: 'completed', value: { result: { $case: 'backup', value } } });
}

function takeBackup(stream: ServerDuplexStream<TakeBackupRequest, TakeBackupResponse>): void {
  stream.on('error', () => undefined);
  stream.on('end', () => stream.end());
  stream.on('data', ({ message }: TakeBackupRequest) => {
    if (message?.$case === 'start') {
      const { value: start } = message;
      const job: Job = { start, stream, events: [], seconds: 0, ended: false };
      jobs.set(start.header?.jobId ?? '', job);
      emit(job, { $case: 'accepted', value: { stages: [Stage.STAGE_PREPARE, Stage.STAGE_BLOCKJOB] } });
      emit(job, { $case: 'stageStarted', value: { stage: Stage.STAGE_PREPARE } });
      emit(job, {
        $case: 'stageFinished',
        value: { stage: Stage.STAGE_PREPARE, figures: undefined, disks: [] },
      });
      emit(job, { $case: 'stageStarted', value: { stage: Stage.STAGE_BLOCKJOB } });
      slots[jobs.size % SLOTS]?.push(job);
      return;
    }
    const command = message?.value.command;
    if (command?.$case !== 'attach') return;
    const { jobId, afterSequence } = command.value;
    const job = jobs.get(jobId);
    if (job === undefined) {
      stream.emit('error', toServiceError(new HoldfastError('JOB_NOT_FOUND', 'No such job.')));
      return;
    }
    job.stream = stream;
    for (const event of job.events) if (event.sequence > afterSequence) write(stream, event);
  });
}

/** Domains are made up as they are asked for: the number in the name is in the UUID. */
function getHost(index: number, { domain }: GetHostRequest): GetHostResponse {
  const number = Number(/^domain-(\d+)$/.exec(domain)?.[1] ?? NaN);
  const host = { name: `h${index}`, zone: 'z0', toolVersions: { qemu: '7.2' } };
  if (domain === '') return GetHostResponse.fromPartial(host);
  if (!(number < Number(domains))) throw new HoldfastError('DOMAIN_NOT_FOUND', 'No such domain.');
  const uuid = `00000000-0000-4000-8000-${number.toString(16).padStart(12, '0')}`;
  return GetHostResponse.fromPartial({ ...host, domains: [{ uuid, name: domain, state: 'running' }] });
}

function answer<Request, Response>(handle: (request: Request) => Response) {
  return (call: ServerUnaryCall<Request, Response>, callback: sendUnaryData<Response>): void => {
    try {
      callback(null, handle(call.request));
    } catch (error) {
      callback(toServiceError(error));
    }
  };
}

async function serve(index: number): Promise<string> {
  const server = new Server();
  new HealthImplementation({ '': 'SERVING' }).addToServer(server);
  server.addService(AgentServiceService, {
    takeBackup,
    getHost: answer((request: GetHostRequest) => getHost(index, request)),
    prepareRepository: answer(() => ({ repositoryId: '00000000-0000-4000-8000-000000000000' })),
    listJobs: answer(() => ({ jobs: [] })),
  });
  const address = `unix://${path.join(directory, `a${index}.sock`)}`;
  await new Promise<void>((resolve, reject) => {
    server.bindAsync(address, ServerCredentials.createInsecure(), (error) => {
      if (error === null) resolve();
      else reject(error);
    });
  });
  return address;
}

function report(what: Report): void {
  process.send?.(what);
}

let finishing: Job[] | undefined;
let lateMs = 0;
let ticks = 0;
const began = performance.now();
setInterval(() => {
  const due = Math.floor((performance.now() - began) / TICK_MS);
  lateMs = Math.max(lateMs, (due - ticks) * TICK_MS);
  for (; ticks < due; ticks += 1) {
    for (const job of slots[ticks % SLOTS] ?? []) if (!job.ended) tellProgress(job);
    for (const job of finishing?.splice(0, ENDING) ?? []) end(job);
  }
}, TICK_MS);

process.on('message', (order: Order) => {
  if (order.kind === 'finish') {
    finishing = [...jobs.values()];
    return;
  }
  const told = Object.fromEntries([...jobs].map(([id, job]) => [id, job.events.map(markOf)]));
  report({ kind: 'counted', told, events, lateMs });
  lateMs = 0;
});
process.on('disconnect', () => process.exit(0));

report({
  kind: 'addresses',
  addresses: await Promise.all(Array.from({ length: Number(agents) }, (_, index) => serve(index))),
});
