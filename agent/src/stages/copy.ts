import { setTimeout as sleep } from 'node:timers/promises';
import { HoldfastError } from '@holdfast/common/errors.ts';
import type { Stage } from '@holdfast/proto/holdfast/v1/event.ts';
import type { Control, Steering } from '../jobs/control.ts';
import { bytesBefore, totalBytes, type Extent } from '../qemu/extents.ts';
import type { BlockJob, StorageDaemon } from '../qemu/storageDaemon.ts';
import type { StageRun } from './context.ts';
import { finished, progress, type DiskReading } from './copyFigures.ts';

/** One disk of a copy: nodes that are open in the daemon already. */
export interface CopyDisk {
  readonly target: string;
  readonly sourceNode: string;
  readonly targetNode: string;
  /** Where the data of the source is. */
  readonly extents: readonly Extent[];
  /** The node whose written bytes are the image as it was formed, compressed when that is on. */
  readonly imageNode: string;
  /** The node of the file itself. */
  readonly fileNode: string;
}

export interface CopyOptions {
  /**
   * The block job: `backup` compresses and starts all disks in one transaction; `mirror` alone leaves holes in a raw
   * file, since backup writes zeroes without BDRV_REQ_MAY_UNMAP, which allocates them.
   */
  readonly job: { readonly kind: 'backup'; readonly compress: boolean } | { readonly kind: 'mirror' };
  /** The side that lies on the repository. */
  readonly repository: 'read' | 'write';
  /** The stages that this one pass is: blockjob and convert, and encrypt when that is on. */
  readonly stages: readonly Stage[];
  /** Looked at all the time, with how long nothing has moved; throws when the copy must be given up. */
  readonly watch: (idleMs: number) => void;
  /** Gives a failed job its real reason, or undefined. */
  readonly explain: (error: string) => Promise<HoldfastError | undefined>;
}

export interface CopyEnd {
  /** By target name. */
  readonly dataBytes: ReadonlyMap<string, number>;
  /** What QEMU wrote to the files, by target name. */
  readonly transferredBytes: ReadonlyMap<string, number>;
}

const POLL_MS = 250;
/** Compression is what takes the time; more requests in flight than cores keep all of them busy (measured: 16). */
const MAX_WORKERS = 16;
/**
 * The transaction that starts the jobs drains the disks, and a throttle group lets everything pass meanwhile: measured, 16 MiB
 * (one request of each worker), after which it stands still until that is made good, at the old rate though the limit is
 * raised. So the jobs start at a standstill of their own, bytes a second, which ends once they have started.
 */
const STANDSTILL = 1;
/**
 * Who waits in a throttle group does so by the rate at which its wait began: a raise holds after one request at the old one.
 * No less than the largest cluster of an image.
 */
const LIMITED_CHUNK_BYTES = 256 * 1_024;
export const LIMIT_GROUP = 'limit';

/** Adds the throttle group under which all sources are read; a job sets its limit before it begins. Holes cost nothing. */
export async function addLimit(daemon: StorageDaemon): Promise<void> {
  await daemon.qmp.execute('object-add', {
    'qom-type': 'throttle-group',
    id: LIMIT_GROUP,
    limits: { 'bps-total': 0 },
  });
}

/** Sets the limit of all that is read under it, in bytes a second; 0 is unlimited. */
export async function setLimit({ qmp }: StorageDaemon, bytesPerSecond: number): Promise<void> {
  const value = { 'bps-total': bytesPerSecond };
  await qmp.execute('qom-set', { path: `/objects/${LIMIT_GROUP}`, property: 'limits', value });
}

/** One pass over the data of all disks at once: read, compressed, encrypted and written by QEMU. */
export async function* copy(
  daemon: StorageDaemon,
  disks: readonly CopyDisk[],
  control: Control,
  options: CopyOptions,
  now: () => Date,
): StageRun<CopyEnd> {
  const startedMs = now().getTime();
  const next = waitsForJobs(daemon);
  const failedAt = failedSides(daemon);
  for (const stage of options.stages) yield { $case: 'stageStarted', value: { stage } };
  let movedBytes = 0;
  let movedAtMs = startedMs;
  /** A daemon that waits for its storage may not answer at all. */
  const watched = <Result>(work: Promise<Result>): Promise<Result> =>
    whileWatching(work, () => {
      options.watch(now().getTime() - movedAtMs);
    });
  const release = await watched(
    control.steer(steeringOf(daemon), () =>
      startJobs(daemon, disks, options.job, control.bytesPerSecond > 0),
    ),
  ).catch((error: unknown) => explained(error, options));
  try {
    for (;;) {
      const jobs = await watched(daemon.jobs());
      const readings = await watched(
        readDisks(daemon, disks, jobs, options.job.kind, now().getTime() - startedMs),
      );
      for (const stage of options.stages) yield progress(stage, readings);
      await failIfFailed(jobs, failedAt, options);
      // A mirror that has copied everything waits for this word.
      for (const job of jobs.filter(({ status }) => status === 'ready')) {
        await daemon.qmp.execute('job-complete', { id: job.id });
      }
      if (jobs.every((job) => job.status === 'concluded')) {
        for (const job of jobs) await daemon.qmp.execute('job-dismiss', { id: job.id });
        for (const stage of options.stages) yield finished(stage, readings);
        return {
          dataBytes: new Map(disks.map((disk) => [disk.target, totalBytes(disk.extents)])),
          transferredBytes: new Map(readings.map((reading) => [reading.target, reading.fileBytes])),
        };
      }
      const moved = sumOf(readings);
      if (moved !== movedBytes) {
        movedBytes = moved;
        movedAtMs = now().getTime();
        control.moved();
      }
      options.watch(now().getTime() - movedAtMs);
      await next(POLL_MS, control.signal);
      control.signal.throwIfAborted();
    }
  } catch (error) {
    return await explained(error, options);
  } finally {
    await release();
  }
}

/** Waits for a time, or less: until a job changes its state. */
function waitsForJobs({ qmp }: StorageDaemon): (ms: number, signal: AbortSignal) => Promise<void> {
  let changed = new AbortController();
  qmp.on('JOB_STATUS_CHANGE', () => {
    changed.abort();
  });
  return async (ms, signal) => {
    await sleep(ms, undefined, { signal: AbortSignal.any([signal, changed.signal]) }).catch(() => undefined);
    changed = new AbortController();
  };
}

/** Waits for something, and looks meanwhile; what the look throws ends the waiting. */
async function whileWatching<Result>(work: Promise<Result>, look: () => void): Promise<Result> {
  const over = new AbortController();
  const watch = async (): Promise<never> => {
    for (;;) {
      await sleep(POLL_MS, undefined, { signal: over.signal });
      look();
    }
  };
  try {
    return await Promise.race([work, watch()]);
  } finally {
    over.abort();
  }
}

/** A source that hangs can hold QEMU's monitor too, which then does not answer and cannot say why. */
async function explained(error: unknown, options: CopyOptions): Promise<never> {
  if (error instanceof HoldfastError && error.reason === 'QEMU_FAILED')
    throw (await options.explain(error.message)) ?? error;
  throw error;
}

/** Anything that a job did changes it. */
function sumOf(readings: readonly DiskReading[]): number {
  return readings.reduce((sum, reading) => sum + reading.processedBytes + reading.fileBytes, 0);
}

async function startJobs(
  daemon: StorageDaemon,
  disks: readonly CopyDisk[],
  job: CopyOptions['job'],
  isLimited: boolean,
): Promise<void> {
  const common = disks.map((disk) => ({
    'job-id': `copy-${disk.target}`,
    device: disk.sourceNode,
    target: disk.targetNode,
    sync: 'full',
    // A job that dismisses itself takes its error with it.
    'auto-dismiss': false,
  }));
  if (job.kind === 'mirror') {
    for (const data of common) await daemon.qmp.execute('blockdev-mirror', data);
    return;
  }
  const actions = common.map((data) => ({
    type: 'blockdev-backup',
    data: {
      ...{ ...data, compress: job.compress },
      ...(isLimited ? { speed: STANDSTILL } : {}),
      'x-perf': { 'max-workers': MAX_WORKERS, ...(isLimited ? { 'max-chunk': LIMITED_CHUNK_BYTES } : {}) },
    },
  }));
  // One transaction, so that no disk is copied when one cannot be.
  await daemon.qmp.execute('transaction', { actions });
  if (!isLimited) return;
  for (const { 'job-id': device } of common)
    await daemon.qmp.execute('block-job-set-speed', { device, speed: 0 });
}

/** By job, whether reading its source or writing its target failed first: the error of a job does not say. */
function failedSides({ qmp }: StorageDaemon): ReadonlyMap<string, 'read' | 'write'> {
  const sides = new Map<string, 'read' | 'write'>();
  qmp.on('BLOCK_JOB_ERROR', (data) => {
    const { device, operation } = data as { device: string; operation: 'read' | 'write' };
    if (!sides.has(device)) sides.set(device, operation);
  });
  return sides;
}

async function failIfFailed(
  jobs: readonly BlockJob[],
  failedAt: ReadonlyMap<string, 'read' | 'write'>,
  options: CopyOptions,
): Promise<void> {
  const failed = jobs.find((job) => job.error !== undefined);
  if (failed?.error === undefined) return;
  const disk = failed.id.replace(/^copy-/, '');
  const reason = await options.explain(failed.error);
  if (reason !== undefined) throw reason;
  const metadata = { disk };
  if (/no space left|quota exceeded/i.test(failed.error))
    throw new HoldfastError('REPOSITORY_FULL', `There is no space left for the image of disk ${disk}.`);
  const side = failedAt.get(failed.id);
  if (side === options.repository) {
    throw new HoldfastError(
      'REPOSITORY_FAILED',
      `The image of disk ${disk} could not be ${side === 'read' ? 'read from' : 'written to'} the repository: ${failed.error}`,
      { metadata },
    );
  }
  throw new HoldfastError('QEMU_FAILED', `Copying disk ${disk} failed: ${failed.error}`, { metadata });
}

function steeringOf(daemon: StorageDaemon): Steering {
  const all = async (command: string): Promise<void> => {
    for (const job of await daemon.jobs()) {
      if (job.status === 'running' || job.status === 'paused')
        await daemon.qmp.execute(command, { id: job.id });
    }
  };
  return {
    setLimit: (bytesPerSecond) => setLimit(daemon, bytesPerSecond),
    pause: () => all('job-pause'),
    resume: () => all('job-resume'),
  };
}

async function readDisks(
  daemon: StorageDaemon,
  disks: readonly CopyDisk[],
  jobs: readonly BlockJob[],
  kind: CopyOptions['job']['kind'],
  elapsedMs: number,
): Promise<readonly DiskReading[]> {
  const written = await daemon.writtenBytes();
  return disks.map((disk) => {
    const job = jobs.find((candidate) => candidate.id === `copy-${disk.target}`);
    const processedBytes = job?.progressBytes ?? 0;
    return {
      target: disk.target,
      processedBytes,
      totalBytes: job?.totalBytes ?? 0,
      // A backup job counts addresses, a mirror what it has to copy.
      dataBytes: kind === 'backup' ? bytesBefore(disk.extents, processedBytes) : processedBytes,
      // Of a restored image the highest offset says where something was written, not how much.
      imageBytes: kind === 'backup' ? (written.get(disk.imageNode) ?? 0) : 0,
      fileBytes: kind === 'backup' ? (written.get(disk.fileNode) ?? 0) : 0,
      elapsedMs,
    };
  });
}
