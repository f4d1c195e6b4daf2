import { randomUUID } from 'node:crypto';
import { Metadata, type sendUnaryData, type ServerDuplexStream } from '@grpc/grpc-js';
import { serverStream, unary } from '@holdfast/common/call.ts';
import { coalescingKey } from '@holdfast/common/events.ts';
import { HoldfastError, toServiceError, toStatus } from '@holdfast/common/errors.ts';
import type { Address } from '@holdfast/common/address.ts';
import type { Certificates } from '@holdfast/common/identity/certificates.ts';
import { silentLogger } from '@holdfast/common/logger.ts';
import { serve, type RunningServer } from '@holdfast/common/server.ts';
import {
  AgentServiceService,
  type AgentServiceServer,
  type Attach,
  type Control,
  type DeleteBackupRequest,
  type DeleteBackupResponse,
  type PrepareRepositoryRequest,
  type RestoreBackupStart,
  type ScannedFolder,
  type TakeBackupStart,
  type VerifyBackupStart,
  type WriteKeyFilesRequest,
} from '@holdfast/proto/holdfast/agent/v1/agent.ts';
import { BackupResult, Stage, type OperationEvent } from '@holdfast/proto/holdfast/v1/event.ts';
import type { Domain } from '@holdfast/proto/holdfast/v1/host.ts';
import { LeftoverState, type Leftover } from '@holdfast/proto/holdfast/v1/leftover.ts';
import { Manifest } from '@holdfast/proto/holdfast/v1/manifest.ts';

type Start = TakeBackupStart | VerifyBackupStart | RestoreBackupStart;
type Happening = NonNullable<OperationEvent['event']>;
type Stream = ServerDuplexStream<
  {
    readonly message:
      | { readonly $case: 'start'; readonly value: Start }
      | { readonly $case: 'control'; readonly value: Control }
      | undefined;
  },
  { readonly event: OperationEvent | undefined }
>;

/** A job as the fake agent keeps it: the test says what happens in it. */
export interface FakeJob {
  readonly id: string;
  readonly start: Start;
  readonly events: readonly OperationEvent[];
  readonly commands: readonly NonNullable<Control['command']>[];
  readonly acknowledged: bigint;
  /** Lets something happen in the job, and tells it to whoever is attached. */
  emit(...happenings: Happening[]): void;
  /** The share in force: what the start said or the latest command; 0 is none. */
  readonly shareBytesPerSecond: number;
  /** Breaks the streams of the job, as a lost connection would. */
  cut(): void;
}

/** A real gRPC server with the agent's side of the contract, and no data plane behind it. */
export interface FakeAgent {
  readonly address: Address;
  readonly jobs: ReadonlyMap<string, FakeJob>;
  /** What attached, and where. */
  readonly attachments: readonly Pick<Attach, 'jobId' | 'afterSequence' | 'fencingEpoch'>[];
  readonly deletions: readonly DeleteBackupRequest[];
  readonly prepared: readonly PrepareRepositoryRequest[];
  /** What the host can take part in. */
  features: string[];
  /** Without disks, unless they matter. */
  domains: (Omit<Domain, 'disks'> & { readonly disks?: Domain['disks'] })[];
  /** An attachment with a lower epoch is refused. */
  knownEpoch: bigint;
  /** When set, every start is refused with it. */
  refusal: HoldfastError | undefined;
  /** When set, the repository is no good. */
  repositoryProblem: HoldfastError | undefined;
  /** What the id file of every repository says. */
  repositoryId: string;
  /** Whether shares are neither applied nor answered. */
  numb: boolean;
  /** Whether acknowledgements are lost. */
  deaf: boolean;
  /** Whether deletions wait for `endDeletions`, and whether they have come to their point of no return. */
  holdDeletions: boolean;
  deletionsBegun: boolean;
  endDeletions(): void;
  /** What lies about, on the host or, with a repository's name, there. */
  leftovers: Leftover[];
  /** The jobs that have a process. */
  busyJobIds: string[];
  /** Events that happen on every start. */
  script: Happening[];
  /** What lies in every repository. */
  folders: ScannedFolder[];
  /** Happens after each folder that is told of; the signal aborts when nobody listens any more. */
  whileScanning: (signal: AbortSignal) => Promise<void>;
  /** What key files lie in each repository, by their paths. */
  readonly keyFiles: Map<string, Map<string, Buffer>>;
  /** The newest epoch under which key files were written in each. */
  readonly keyEpochs: Map<string, bigint>;
  /** Told, and waited for, before key files are written; what it throws is answered. */
  onKeyFiles: (request: WriteKeyFilesRequest) => unknown;
  /** Forgets all jobs. */
  forgetJobs(): void;
  /** Goes away, with all its streams; jobs are kept. */
  stop(): Promise<void>;
  /** Comes back at the same address. */
  startAgain(): Promise<void>;
}

interface MutableJob extends FakeJob {
  events: OperationEvent[];
  commands: NonNullable<Control['command']>[];
  acknowledged: bigint;
  shareBytesPerSecond: number;
  streams: Set<Stream>;
}

export async function startFakeAgent(given: {
  readonly name: string;
  readonly zone: string;
  readonly address: Address;
  readonly certificates?: Certificates;
}): Promise<FakeAgent> {
  const jobs = new Map<string, MutableJob>();
  const attachments: Pick<Attach, 'jobId' | 'afterSequence' | 'fencingEpoch'>[] = [];
  const deletions: DeleteBackupRequest[] = [];
  const prepared: PrepareRepositoryRequest[] = [];
  /** By the ids of their backups. */
  const held = new Map<string, sendUnaryData<DeleteBackupResponse>>();
  const streamOf = (stream: Stream): void => {
    handleStream(agent, jobs, attachments, stream);
  };
  const implementation: AgentServiceServer = {
    takeBackup: streamOf,
    verifyBackup: streamOf,
    restoreBackup: streamOf,
    deleteBackup: (call, callback) => {
      deletions.push(call.request);
      const { onlyBegun, backupId } = call.request;
      if (onlyBegun && !agent.deletionsBegun) callback(toServiceError(notDeleted(backupId)));
      else if (agent.holdDeletions) held.set(backupId, callback);
      else callback(null, { freedBytes: 42n });
    },
    cancelDeletion: answer(({ backupId }) => {
      if (!agent.deletionsBegun) held.get(backupId)?.(toServiceError(notDeleted(backupId)));
      return { begun: held.has(backupId) && agent.deletionsBegun };
    }),
    getHost: answer(({ domain }) => {
      const domains = agent.domains.filter(
        (each) => domain === '' || each.name === domain || each.uuid === domain,
      );
      if (domain !== '' && domains.length === 0) throw new HoldfastError('DOMAIN_NOT_FOUND', 'no domain');
      return {
        name: given.name,
        zone: given.zone,
        toolVersions: { qemu: '7.2.22' },
        features: agent.features,
        domains: domains.map((each) => ({ disks: [], ...each })),
      };
    }),
    prepareRepository: answer((request) => {
      if (agent.repositoryProblem !== undefined) throw agent.repositoryProblem;
      prepared.push(request);
      return { repositoryId: agent.repositoryId };
    }),
    getRepositoryStats: answer(() => {
      if (agent.repositoryProblem !== undefined) throw agent.repositoryProblem;
      return { sizeBytes: 1_000n, freeBytes: 400n, usedBytes: 550n, path: '/nas' };
    }),
    scanRepository: serverStream(silentLogger, async function* (_request, { signal }) {
      if (agent.repositoryProblem !== undefined) throw agent.repositoryProblem;
      for (const folder of agent.folders) {
        yield { folders: [await Promise.resolve(folder)] };
        await agent.whileScanning(signal);
      }
    }),
    findKeyFiles: answer(({ repository, keyIds, zoneKeys }) => {
      if (agent.repositoryProblem !== undefined) throw agent.repositoryProblem;
      const files = [...filesOf(agent, repository?.name ?? '')];
      const backups = files.flatMap(([path, wrappedKey]) => {
        const { folder = '', keyId = '' } = BACKUP_KEY_FILE.exec(path)?.groups ?? {};
        return keyIds.includes(keyId) ? [{ path: folder, keyId, wrappedKey }] : [];
      });
      const ofZones = files.flatMap(([path, content]) => {
        const keyId = /^zone-keys\/(?<keyId>.+)\.age$/.exec(path)?.groups?.['keyId'];
        return zoneKeys && keyId !== undefined ? [{ keyId, content }] : [];
      });
      return { backups, more: false, zoneKeys: ofZones };
    }),
    writeKeyFiles: answer(async (request) => {
      if (agent.repositoryProblem !== undefined) throw agent.repositoryProblem;
      await agent.onKeyFiles(request);
      const { name = '' } = request.repository ?? {};
      const newest = agent.keyEpochs.get(name) ?? 0n;
      if (request.fencingEpoch < newest) {
        throw new HoldfastError('STALE_EPOCH', 'stale', { metadata: { epoch: String(newest) } });
      }
      agent.keyEpochs.set(name, request.fencingEpoch);
      const files = filesOf(agent, request.repository?.name ?? '');
      for (const { keyId, content } of request.zoneKeys) {
        if (content.length === 0) files.delete(`zone-keys/${keyId}.age`);
        else files.set(`zone-keys/${keyId}.age`, content);
      }
      for (const { keyId, content } of request.replacedZoneKeys) {
        if (files.has(`zone-keys/${keyId}.age`)) files.set(`zone-keys/${keyId}.age`, content);
      }
      for (const { path, keyId, wrappedKey } of request.backups) {
        for (const name of [...files.keys()]) {
          if (BACKUP_KEY_FILE.exec(name)?.groups?.['folder'] === path) files.delete(name);
        }
        files.set(`${path}/key.${keyId}.age`, wrappedKey);
      }
      return { missingPaths: [] };
    }),
    listJobs: answer(() => ({
      jobs: [...jobs.values()].map((job) => ({
        jobId: job.id,
        kind: 'TakeBackup',
        finished: ['completed', 'failed'].includes(job.events.at(-1)?.event?.$case ?? ''),
        lastSequence: BigInt(job.events.length),
      })),
    })),
    findLeftovers: answer(({ repository }) => {
      if (repository !== undefined && agent.repositoryProblem !== undefined) throw agent.repositoryProblem;
      const leftovers = agent.leftovers.filter((each) => each.repository === (repository?.name ?? ''));
      return { leftovers, busyJobIds: agent.busyJobIds, problems: [] };
    }),
    removeLeftovers: answer(({ leftovers }) => {
      agent.leftovers = agent.leftovers.filter((each) => !leftovers.some(({ name }) => name === each.name));
      return {
        leftovers: leftovers.map((each) => ({ ...each, state: LeftoverState.LEFTOVER_STATE_REMOVED })),
      };
    }),
  };
  const service = { name: 'holdfast.agent.v1.AgentService', definition: AgentServiceService, implementation };
  const { certificates } = given;
  let server: RunningServer = await serve(given.address, [service], silentLogger, { certificates });
  const { address } = server;
  const agent: FakeAgent = {
    address,
    jobs,
    attachments,
    deletions,
    prepared,
    features: ['push', 'repository.nfs'],
    domains: [],
    knownEpoch: 0n,
    refusal: undefined,
    repositoryProblem: undefined,
    repositoryId: randomUUID(),
    numb: false,
    deaf: false,
    holdDeletions: false,
    deletionsBegun: false,
    endDeletions: () => {
      for (const callback of held.values()) callback(null, { freedBytes: 42n });
      held.clear();
    },
    leftovers: [],
    busyJobIds: [],
    folders: [],
    whileScanning: () => Promise.resolve(),
    script: [],
    keyFiles: new Map(),
    keyEpochs: new Map(),
    onKeyFiles: () => undefined,
    forgetJobs: () => {
      for (const job of jobs.values()) job.cut();
      jobs.clear();
    },
    stop: () => server.close(0),
    startAgain: async () => {
      server = await serve(address, [service], silentLogger, { certificates });
    },
  };
  return agent;
}

const BACKUP_KEY_FILE = /^(?<folder>.+)\/key\.(?<keyId>[\w-]+)\.age$/;

function filesOf(agent: FakeAgent, repository: string): Map<string, Buffer> {
  const files = agent.keyFiles.get(repository) ?? new Map<string, Buffer>();
  agent.keyFiles.set(repository, files);
  return files;
}

/** What a real agent writes for an encrypted backup: the zone's key before, the backup's at the end. */
function storeKeys(agent: FakeAgent, start: Start, happening: Happening): void {
  if (!('key' in start) || start.key === undefined) return;
  const files = filesOf(agent, start.repository?.name ?? '');
  const { keyId, zoneKeyFile, wrappedKey } = start.key;
  if (happening.$case === 'accepted') files.set(`zone-keys/${keyId}.age`, zoneKeyFile);
  if (happening.$case !== 'completed' || happening.value.result?.$case !== 'backup') return;
  files.set(`zone-keys/${keyId}.age`, zoneKeyFile);
  files.set(`${happening.value.result.value.path}/key.${keyId}.age`, wrappedKey);
}

/** As a real agent says it. */
function notDeleted(backup: string): HoldfastError {
  return new HoldfastError('CANCELLED', 'The deletion was cancelled.', { metadata: { backup } });
}

function answer<Request, Response>(handle: (request: Request) => Response | Promise<Response>) {
  return unary(silentLogger, async (request: Request) => await handle(request));
}

function handleStream(
  agent: FakeAgent,
  jobs: Map<string, MutableJob>,
  attachments: Pick<Attach, 'jobId' | 'afterSequence' | 'fencingEpoch'>[],
  stream: Stream,
): void {
  let job: MutableJob | undefined;
  stream.on('error', () => undefined);
  stream.on('data', ({ message }: { message: { $case: string; value: Start | Control } | undefined }) => {
    if (message?.$case === 'start') {
      if (agent.refusal !== undefined) {
        stream.emit('error', toServiceError(agent.refusal));
        return;
      }
      const start = message.value as Start;
      const id = start.header?.jobId ?? '';
      const known = jobs.get(id);
      job =
        known ??
        createJob(id, start, (each) => {
          storeKeys(agent, start, each);
        });
      jobs.set(id, job);
      follow(job, stream, 0n);
      if (known === undefined) job.emit(...agent.script);
      return;
    }
    const command = (message?.value as Control | undefined)?.command;
    if (command?.$case === 'attach') {
      const { jobId, afterSequence, fencingEpoch } = command.value;
      if (fencingEpoch < agent.knownEpoch) {
        const metadata = { epoch: String(agent.knownEpoch) };
        stream.emit('error', toServiceError(new HoldfastError('STALE_EPOCH', 'stale', { metadata })));
        return;
      }
      attachments.push({ jobId, afterSequence, fencingEpoch });
      job = jobs.get(jobId);
      if (job === undefined) stream.emit('error', toServiceError(new HoldfastError('JOB_NOT_FOUND', 'gone')));
      else follow(job, stream, command.value.afterSequence);
    } else if (command?.$case === 'ack') {
      if (job !== undefined && !agent.deaf) job.acknowledged = command.value.sequence;
    } else if (command?.$case === 'setShare') {
      // As a real agent: applied, then told.
      if (job === undefined || agent.numb) return;
      job.shareBytesPerSecond = Number(command.value.bytesPerSecond);
      const event = { $case: 'shareApplied', value: command.value } as const;
      stream.write({ event: { sequence: BigInt(job.events.length), time: new Date(), event } });
    } else if (command !== undefined) job?.commands.push(command);
  });
  stream.on('end', () => {
    stream.end();
  });
  stream.on('cancelled', () => job?.streams.delete(stream));
}

function follow(job: MutableJob, stream: Stream, after: bigint): void {
  stream.sendMetadata(new Metadata());
  job.streams.add(stream);
  for (const event of job.events) if (event.sequence > after) stream.write({ event });
}

function shareOf(start: Start): number {
  const told = 'options' in start ? start.options : start;
  return Number((told && 'bandwidthShareBytesPerSecond' in told && told.bandwidthShareBytesPerSecond) || 0n);
}

function createJob(id: string, start: Start, onEvent: (event: Happening) => void): MutableJob {
  const job: MutableJob = {
    id,
    start,
    events: [],
    commands: [],
    acknowledged: 0n,
    shareBytesPerSecond: shareOf(start),
    streams: new Set(),
    emit: (...happenings) => {
      for (const event of happenings) {
        onEvent(event);
        if (coalescingKey({ event }) !== undefined) {
          const sequence = BigInt(job.events.length);
          for (const stream of job.streams) stream.write({ event: { sequence, time: new Date(), event } });
          continue;
        }
        const numbered = { sequence: BigInt(job.events.length + 1), time: new Date(), event };
        job.events.push(numbered);
        for (const stream of job.streams) stream.write({ event: numbered });
      }
    },
    cut: () => {
      for (const stream of job.streams) {
        stream.emit('error', { code: 14, details: 'connection lost' });
      }
      job.streams.clear();
    },
  };
  return job;
}

/** Domains that run, for an agent to have. */
export function runningDomains(...names: readonly string[]): FakeAgent['domains'] {
  return names.map((name) => ({ uuid: randomUUID(), name, state: 'running' }));
}

/** Brings the copy of a backup to its end, and then the backup. */
export function finishBackup(job: FakeJob): void {
  job.emit(happening.stageFinished(Stage.STAGE_BLOCKJOB), happening.backedUp(job.start as TakeBackupStart));
}

/** The happenings that a test puts together. */
export const happening = {
  accepted: (...stages: Stage[]): Happening => ({ $case: 'accepted', value: { stages } }),
  stageStarted: (stage: Stage): Happening => ({ $case: 'stageStarted', value: { stage } }),
  stageFinished: (stage: Stage): Happening => ({
    $case: 'stageFinished',
    value: { stage, figures: figures(100n), disks: [] },
  }),
  progress: (stage: Stage, processedBytes: bigint): Happening => ({
    $case: 'stageProgress',
    value: { stage, figures: figures(processedBytes), disks: [] },
  }),
  backedUp: (start: TakeBackupStart, snapshotTime = new Date()): Happening => ({
    $case: 'completed',
    value: {
      result: {
        $case: 'backup',
        value: BackupResult.fromPartial({
          path: `some/${start.backupId}`,
          manifestSha256: 'ab'.repeat(32),
          manifest: Manifest.fromPartial({
            version: 1,
            backupId: start.backupId,
            snapshotTime,
            domainUuid: start.domain,
            domainName: 'vm',
            disks: [
              {
                ...{ target: 'vda', virtualSizeBytes: 1_000n, dataBytes: 500n, storedBytes: 200n },
                storedDigests: { file: 'vda.stored.sha256', sha256: 'cd'.repeat(32), chunkBytes: 1n << 22n },
              },
            ],
            encryption: start.key && { keyId: start.key.keyId },
          }),
        }),
      },
    },
  }),
  verified: (): Happening => ({
    $case: 'completed',
    value: { result: { $case: 'verification', value: { level: 'metadata', disks: [], samplePercent: 100 } } },
  }),
  failed: (error: HoldfastError): Happening => ({ $case: 'failed', value: toStatus(error) }),
} as const;

function figures(processedBytes: bigint): {
  processedBytes: bigint;
  totalBytes: bigint;
  inputBytes: bigint;
  outputBytes: bigint;
  elapsedMs: bigint;
} {
  return { processedBytes, totalBytes: 100n, inputBytes: 0n, outputBytes: 0n, elapsedMs: 1n };
}
