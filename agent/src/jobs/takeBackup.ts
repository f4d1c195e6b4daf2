import { dirname } from 'node:path';
import { HoldfastError } from '@holdfast/common/errors.ts';
import type { TakeBackupStart } from '@holdfast/proto/holdfast/agent/v1/agent.ts';
import { Stage, type BackupResult, type Completed } from '@holdfast/proto/holdfast/v1/event.ts';
import { domainState } from '../libvirt/domains.ts';
import { layoutName } from '../qemu/layout.ts';
import { partialFolder } from '../repository/layout.ts';
import { watchRepository } from '../repository/liveness.ts';
import { check, type CheckDisk } from '../stages/check.ts';
import { stage, type JobContext, type StageRun } from '../stages/context.ts';
import { copy } from '../stages/copy.ts';
import { finishImages } from '../stages/finish.ts';
import { openSources } from '../stages/openSources.ts';
import { prepare, type Prepared } from '../stages/prepare.ts';
import { publish } from '../stages/publish.ts';
import { quiesce, type Snapshot } from '../stages/quiesce.ts';
import { readState } from '../stages/readState.ts';
import { guardScratch, type ScratchGuard } from '../stages/scratch.ts';

/** The stages of a backup, in order. */
export function backupStages(start: TakeBackupStart): readonly Stage[] {
  return [
    Stage.STAGE_PREPARE,
    Stage.STAGE_QUIESCE,
    ...passStages(start),
    ...(start.options?.integrityCheck === true ? [Stage.STAGE_CHECK] : []),
    Stage.STAGE_PUBLISH,
  ];
}

/** The stages that run at the same time, as one pass over the data. */
function passStages(start: TakeBackupStart): readonly Stage[] {
  const encrypt = start.key === undefined ? [] : [Stage.STAGE_ENCRYPT];
  return [Stage.STAGE_BLOCKJOB, Stage.STAGE_CONVERT, ...encrypt];
}

/** Takes a backup, from the first look at the domain to the published folder. */
export async function* takeBackup(context: JobContext, start: TakeBackupStart): StageRun<Completed> {
  const prepared = yield* stage(context, Stage.STAGE_PREPARE, prepare(context, start));
  try {
    const mode = start.options?.quiesce ?? 'off';
    const snapshot = yield* stage(context, Stage.STAGE_QUIESCE, quiesce(context, prepared, mode));
    const value = yield* fromSnapshot(context, start, prepared, snapshot);
    return { result: { $case: 'backup', value } };
  } finally {
    prepared.repository.close();
  }
}

async function* fromSnapshot(
  context: JobContext,
  start: TakeBackupStart,
  prepared: Prepared,
  snapshot: Snapshot,
): StageRun<BackupResult> {
  const guard =
    snapshot.kind === 'running'
      ? guardScratch(dirname(context.scratchDirectory), () => snapshot.end.now())
      : undefined;
  const requireAnswer = watchRepository(prepared.repository);
  try {
    const state = yield* readState(context, prepared);
    const sources = await openSources(context, prepared, snapshot);
    const copied = yield* copy(
      prepared.daemon,
      sources,
      context.control,
      {
        job: { kind: 'backup', compress: prepared.layout.compression !== '' },
        stages: passStages(start),
        watch: () => {
          watchSource(prepared, snapshot, guard);
          requireAnswer();
        },
        explain: () => explainSource(context, prepared),
      },
      context.now,
    );
    await requireStillStopped(context, prepared, snapshot);
    const storedBytes = await finishImages(prepared);
    // The guest is let go as soon as its data has been read and QEMU reads no more of it.
    guard?.close();
    if (snapshot.kind === 'running') await snapshot.end.now();

    const checked = start.options?.integrityCheck === true;
    if (checked)
      yield* stage(
        context,
        Stage.STAGE_CHECK,
        check(context, imagesOf(prepared, storedBytes), 'CHECK_FAILED'),
      );
    return yield* stage(
      context,
      Stage.STAGE_PUBLISH,
      publish(context, start, prepared, snapshot, { ...copied, storedBytes, checked, state }),
    );
  } catch (error) {
    // The guest was let go, which everything that reads from it fails of.
    throw guard?.failure ?? error;
  } finally {
    guard?.close();
    if (snapshot.kind === 'stopped') await snapshot.watch.stop();
  }
}

function imagesOf(prepared: Prepared, storedBytes: ReadonlyMap<string, number>): readonly CheckDisk[] {
  return prepared.disks.map(({ disk, file }) => ({
    target: disk.target,
    path: prepared.repository.pathOf(`${partialFolder(prepared.folder)}/${file}`),
    layout: layoutName(prepared.layout),
    secret: prepared.key,
    storedBytes: storedBytes.get(disk.target) ?? 0,
  }));
}

function watchSource(prepared: Prepared, snapshot: Snapshot, guard: ScratchGuard | undefined): void {
  if (guard?.failure !== undefined) throw guard.failure;
  if (snapshot.kind === 'stopped' && snapshot.watch.wasStarted()) throw domainStarted(prepared);
}

/** A start that has ended again by now counts too: it may have written. */
async function requireStillStopped(
  context: JobContext,
  prepared: Prepared,
  snapshot: Snapshot,
): Promise<void> {
  if (snapshot.kind === 'running') return;
  const state = await domainState(context.virsh, prepared.domain.uuid);
  if (snapshot.watch.wasStarted() || state !== 'shut off') throw domainStarted(prepared);
}

/** A copy that broke because the domain is gone did not break because of the repository. */
async function explainSource(context: JobContext, prepared: Prepared): Promise<HoldfastError | undefined> {
  if (!prepared.running) return undefined;
  const state = await domainState(context.virsh, prepared.domain.uuid).catch(() => 'gone');
  if (state === 'running' || state === 'paused') return undefined;
  return new HoldfastError(
    'DOMAIN_STOPPED',
    `Domain ${JSON.stringify(prepared.domain.name)} is ${state} now, its QEMU ended in the middle of the backup. ` +
      'Take the backup again.',
    { metadata: { state } },
  );
}

function domainStarted(prepared: Prepared): HoldfastError {
  return new HoldfastError(
    'DOMAIN_STARTED',
    `Domain ${JSON.stringify(prepared.domain.name)} was started while its images were read, so the copy was thrown ` +
      'away. Take the backup again: it will be one of a running domain.',
  );
}
