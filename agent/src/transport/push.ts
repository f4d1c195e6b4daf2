import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { HoldfastError } from '@holdfast/common/errors.ts';
import type { Stage } from '@holdfast/proto/holdfast/v1/event.ts';
import type { ImageWatch } from '../ceph/watchImages.ts';
import { runningBackup } from '../libvirt/backupJob.ts';
import { stateOrGone } from '../libvirt/domains.ts';
import { beginPushBackup, pushOutcome, type PushJob } from '../libvirt/pushBackup.ts';
import { mapNbdExport, totalBytes } from '../qemu/extents.ts';
import { nodeBelowImage } from '../qemu/layout.ts';
import { killStorageDaemon } from '../qemu/storageDaemon.ts';
import { warning, type JobContext, type StageRun } from '../stages/context.ts';
import { finished, progress, type DiskReading } from '../stages/copyFigures.ts';
import type { Prepared } from '../stages/prepare.ts';
import { exportFile, makeExportDirectory, mountExports, type Exporter } from './exporter.ts';
import { startPushGuard } from './pushGuard.ts';
import { pushLimit, type PushLimit } from './pushLimit.ts';
import { offerTargets, roundUp, withdrawTargets } from './pushTarget.ts';
import { domainEnded, domainStopped } from './running.ts';
import { watchSourceImages } from './sourceImages.ts';
import type { Transport } from './transport.ts';
import { watchTargets, type Watchdog } from './watchdog.ts';

/** What a push backup works with, once everything but the job itself is there. */
interface Push {
  readonly context: JobContext;
  readonly prepared: Prepared;
  readonly exporter: Exporter;
  readonly limit: PushLimit;
  readonly watchdog: Watchdog;
  readonly images: ImageWatch;
}

const POLL_MS = 250;
/** A libvirtd that is restarted finds the job again; one that stays away leaves nobody who knows how it ends. */
const LIBVIRT_PATIENCE_MS = 120_000;
/** For how long libvirt may have a backup without any disk's job: it ends one by itself when the last job of it ends. */
const ENDING_MS = 10_000;

/**
 * Push: libvirt's own backup job writes the disks, by QEMU, into FUSE files that lead to the images. Needs no scratch
 * space.
 *
 * @param stages that this one pass is: blockjob and convert, and encrypt when that is on
 * @throws HoldfastError PUSH_UNUSABLE before the guest is touched
 */
export async function pushTransport(
  context: JobContext,
  prepared: Prepared,
  stages: readonly Stage[],
  enforceLimit: string,
): Promise<Transport> {
  const { virsh, undo, control } = context;
  const { uuid } = prepared.domain;
  const targets = prepared.disks.map(({ disk }) => disk.target);
  const exporterDirectory = join(context.runtimeDirectory, 'exporter');
  const socket = join(context.runtimeDirectory, 'target.sock');
  await makeExportDirectory(context, prepared);
  await roundUp(prepared.daemon, prepared.layout, prepared.disks);
  await offerTargets(prepared.daemon, prepared.layout, prepared.disks, socket);
  const toUndo = {
    domainUuid: uuid,
    exports: targets.map((target) => exportFile(context, target)),
    exporter: exporterDirectory,
    writer: context.runtimeDirectory,
  };
  const undoing = await undo.promise({ kind: 'end-push-backup', push: toUndo });
  const guard = await startPushGuard(virsh.uri, toUndo, context.runtimeDirectory, control.signal);
  const exporter = await mountExports(context, prepared, exporterDirectory, socket);
  const limit = pushLimit(virsh, uuid, targets, enforceLimit);
  const watchdog = watchTargets({
    connections: exporter.connections,
    killWriter: () => killStorageDaemon(context.runtimeDirectory),
    nowMs: () => performance.now(),
  });
  const images = watchSourceImages(context, prepared);
  const push: Push = { context, prepared, exporter, limit, watchdog, images };
  let release: (() => Promise<void>) | undefined;
  let limited: Promise<void> | undefined;
  return {
    name: 'push',
    begin: async () => {
      const excluded = prepared.excluded.map((disk) => disk.target);
      const xml = join(context.runtimeDirectory, 'backup.xml');
      release = await control.steer(limit, async () => {
        await beginPushBackup(virsh, { uuid, files: exporter.files, excluded }, xml, control.signal);
        // At once, since no limit holds until then; but the guest may be frozen and does not wait for it.
        limited = limit.begin();
        limited.catch(() => undefined);
      });
    },
    copy: async function* () {
      try {
        await limited;
        const readings = yield* follow(push, stages);
        watchdog.stop();
        await exporter.daemon.quit();
        const dataBytes = await dataOf(push, socket);
        await withdrawTargets(prepared.daemon, prepared.layout, prepared.disks);
        await undoing.now();
        guard.release();
        const last = readings.map((reading) => ({
          ...reading,
          dataBytes: dataBytes.get(reading.target) ?? 0,
        }));
        for (const stage of stages) yield finished(stage, last);
        return { dataBytes, transferredBytes: new Map(last.map((disk) => [disk.target, disk.fileBytes])) };
      } catch (error) {
        if (control.signal.aborted) throw error;
        throw (await stalledError(push)) ?? error;
      }
    },
    snapshot: undefined,
    end: () => Promise.resolve(),
    [Symbol.asyncDispose]: async () => {
      watchdog.stop();
      await release?.();
    },
  };
}

/** Follows the job to its good end. */
async function* follow(push: Push, stages: readonly Stage[]): StageRun<readonly DiskReading[]> {
  const { context, prepared, exporter, limit, watchdog, images } = push;
  const { control } = context;
  const startedMs = context.now().getTime();
  for (const stage of stages) yield { $case: 'stageStarted', value: { stage } };
  let latest: ReadonlyMap<string, PushJob> = new Map();
  let heardMs = startedMs;
  let movedMs = startedMs;
  let endingSinceMs: number | undefined;
  for (;;) {
    requireTargets(push);
    prepared.requireRepository();
    const nowMs = context.now().getTime();
    const jobs = await limit.look().catch((error: unknown) => {
      if (!(error instanceof HoldfastError) || error.reason !== 'LIBVIRT_FAILED') throw error;
      if (nowMs - heardMs > LIBVIRT_PATIENCE_MS) throw error;
      return undefined;
    });
    if (jobs !== undefined) {
      heardMs = nowMs;
      if (noteProgress(watchdog, latest, jobs)) {
        movedMs = nowMs;
        control.moved();
      }
      images.whenIdle(nowMs - movedMs);
      latest = new Map([...latest, ...jobs]);
    }
    for (const [target, message] of limit.complaints()) yield warning('LIMIT_NOT_APPLIED', message, target);
    if (limit.pausedSince()) yield standstill();
    const written = await prepared.daemon.writtenBytes();
    const readings = prepared.disks.map((disk) =>
      readingOf(prepared, disk, latest, jobs, written, nowMs - startedMs),
    );
    for (const stage of stages) yield progress(stage, readings);
    if (jobs?.size === 0 && (await hasEnded(push))) {
      // An event comes before the answer to a command that was sent later, so none is missed.
      await exporter.daemon.qmp.execute('query-block-exports');
      requireTargets(push);
      return readings;
    }
    if (jobs !== undefined) endingSinceMs = jobs.size === 0 ? (endingSinceMs ?? nowMs) : undefined;
    if (endingSinceMs !== undefined && nowMs - endingSinceMs > ENDING_MS) throw forgotten(push);
    await sleep(POLL_MS, undefined, { signal: control.signal }).catch(() => undefined);
    control.signal.throwIfAborted();
  }
}

/** Whether any data moved. */
function noteProgress(
  watchdog: Watchdog,
  before: ReadonlyMap<string, PushJob>,
  now: ReadonlyMap<string, PushJob>,
): boolean {
  const moved = [...now]
    .filter(([target, { processedBytes }]) => before.get(target)?.processedBytes !== processedBytes)
    .map(([target]) => target);
  for (const target of moved) watchdog.progressed(target);
  return moved.length > 0;
}

function readingOf(
  { layout }: Prepared,
  { disk, nodes, virtualSizeBytes }: Prepared['disks'][number],
  latest: ReadonlyMap<string, PushJob>,
  running: ReadonlyMap<string, PushJob> | undefined,
  written: ReadonlyMap<string, number>,
  elapsedMs: number,
): DiskReading {
  const job = latest.get(disk.target);
  const total = job?.totalBytes ?? virtualSizeBytes;
  const hasEnded = running !== undefined && !running.has(disk.target);
  const processedBytes = hasEnded ? total : (job?.processedBytes ?? 0);
  return {
    target: disk.target,
    processedBytes,
    totalBytes: total,
    // libvirt does not say where the holes are; what is data is counted in the image, at the end.
    dataBytes: processedBytes,
    imageBytes: written.get(nodeBelowImage(layout, nodes)) ?? 0,
    fileBytes: written.get(nodes.file) ?? 0,
    elapsedMs,
  };
}

function standstill(): ReturnType<typeof warning> {
  return warning(
    'PAUSED_BY_LIMIT',
    'libvirt cannot pause a push backup. It is held by a limit of one byte a second for each disk: what is under way ' +
      'is still written, up to 64 MiB for each disk, and so is what the guest overwrites.',
  );
}

/** @throws HoldfastError when what was pushed is not in the images */
function requireTargets({ exporter, prepared, watchdog }: Push): void {
  const lost = exporter.lost();
  // A writer that was killed since it hung loses writes too.
  if (lost === undefined || watchdog.stalled() !== undefined) return;
  const where = `the image of disk ${lost.target} on repository ${prepared.repository.name}`;
  if (/no space left|quota exceeded/i.test(lost.error))
    throw new HoldfastError('REPOSITORY_FULL', `There is no space left for ${where}.`);
  throw new HoldfastError('REPOSITORY_FAILED', `Writing to ${where} failed: ${lost.error}`);
}

/** @throws HoldfastError when the job ended otherwise than well */
async function hasEnded({ context, prepared }: Push): Promise<boolean> {
  const { virsh } = context;
  const { uuid, name } = prepared.domain;
  const state = await stateOrGone(virsh, uuid);
  if (state !== 'running' && state !== 'paused') throw domainStopped(prepared, state);
  if ((await runningBackup(virsh, uuid)) !== undefined) return false;
  const { result, message } = await pushOutcome(virsh, uuid);
  if (result === 'Completed') return true;
  if (['', 'None'].includes(result)) throw forgotten({ prepared });
  throw new HoldfastError(
    'QEMU_FAILED',
    `libvirt's backup job of domain ${JSON.stringify(name)} ended as ${result}. ${message}`.trim(),
  );
}

/**
 * A libvirtd that comes back after the backup has ended knows nothing of how; one that was killed right as a disk's job
 * ended, before it noted that, takes the backup for one that goes on for ever (libvirt 9.0.0).
 */
function forgotten({ prepared: { domain } }: Pick<Push, 'prepared'>): HoldfastError {
  return new HoldfastError(
    'QEMU_FAILED',
    `libvirt's backup job of domain ${JSON.stringify(domain.name)}, or that of one of its disks, ended while libvirtd was ` +
      'away, so that nobody knows whether it had copied everything. Take the backup again.',
  );
}

/** The bytes that are not holes, by target name: libvirt tells nothing of them, the images do. */
async function dataOf(push: Push, socket: string): Promise<ReadonlyMap<string, number>> {
  const found = new Map<string, number>();
  for (const { disk } of push.prepared.disks) {
    const map = await mapNbdExport(socket, disk.target, push.context.control.signal);
    found.set(disk.target, totalBytes(map.extents));
  }
  return found;
}

/** The reason behind whatever failed, when the watchdog had to act. */
async function stalledError({ context, prepared, watchdog }: Push): Promise<HoldfastError | undefined> {
  const target = watchdog.stalled();
  if (target !== undefined) {
    return new HoldfastError(
      'REPOSITORY_STALLED',
      `Repository ${prepared.repository.name} did not answer for seconds while disk ${target} was pushed to it, and ` +
        'writes of the guest waited. The backup was given up, so that they wait no longer; none of them failed.',
    );
  }
  return domainEnded(context.virsh, prepared);
}
