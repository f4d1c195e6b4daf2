import { HoldfastError } from '@holdfast/common/errors.ts';
import type { BackupRef, RestoreBackupStart } from '@holdfast/proto/holdfast/agent/v1/agent.ts';
import { Stage, type Completed } from '@holdfast/proto/holdfast/v1/event.ts';
import { rbdWith } from '../ceph/rbd.ts';
import { watchImages } from '../ceph/watchImages.ts';
import type { WatchedRepository } from '../repository/liveness.ts';
import { stage, type JobContext, type StageEnd, type StageRun } from '../stages/context.ts';
import { copy } from '../stages/copy.ts';
import { openBackup } from '../stages/openBackup.ts';
import { prepareRestore, type PreparedRestore } from '../stages/prepareRestore.ts';
import { placeParent, type RestorePlace } from '../stages/restorePlace.ts';
import { finishRestore, publishRestore } from '../stages/publishRestore.ts';
import { prepareState, type RestoreState } from '../stages/restoreState.ts';
import type { JobEvent } from './eventLog.ts';

export const RESTORE_STAGES: readonly Stage[] = [
  Stage.STAGE_PREPARE,
  Stage.STAGE_CONVERT,
  Stage.STAGE_PUBLISH,
];

/** Restores a backup, or some of its disks, to new image files. */
export async function* restoreBackup(context: JobContext, start: RestoreBackupStart): StageRun<Completed> {
  if (start.backup?.repository === undefined)
    throw new HoldfastError('INVALID_REQUEST', 'backup is missing.');
  const repository = await context.openRepository(start.backup.repository);
  try {
    return yield* restoreFrom(context, start, start.backup, repository);
  } finally {
    repository.close();
  }
}

async function* restoreFrom(
  context: JobContext,
  start: RestoreBackupStart,
  backup: BackupRef,
  repository: WatchedRepository,
): StageRun<Completed> {
  const { prepared, state } = yield* stage(
    context,
    Stage.STAGE_PREPARE,
    openAndPrepare(context, start, backup, repository),
  );
  const places = prepared.disks.map(({ place }) => place);
  const images = watchImages(
    rbdWith(context.virsh, context.runtimeDirectory),
    places.flatMap((place) => (place.kind === 'rbd' ? [place.temporary] : [])),
  );
  yield* copy(
    prepared.daemon,
    prepared.disks,
    context.control,
    {
      job: { kind: 'mirror' },
      repository: 'read',
      stages: [Stage.STAGE_CONVERT],
      watch: (idleMs) => {
        repository.requireAnswer();
        images.whenIdle(idleMs);
      },
      explain: async (error) =>
        /no space left|quota exceeded/i.test(error) ? noSpace(places) : images.fault(),
    },
    context.now,
  );
  await finishRestore(prepared);
  const value = yield* stage(context, Stage.STAGE_PUBLISH, publishRestore(context, start, prepared, state));
  return { result: { $case: 'restore', value } };
}

function noSpace([place]: readonly RestorePlace[]): HoldfastError {
  const where = place === undefined ? 'there' : `in ${placeParent(place)}`;
  return new HoldfastError('DIRECTORY_UNUSABLE', `There is no space left ${where}.`);
}

async function* openAndPrepare(
  context: JobContext,
  start: RestoreBackupStart,
  backup: BackupRef,
  repository: WatchedRepository,
): AsyncGenerator<
  JobEvent,
  StageEnd<{ readonly prepared: PreparedRestore; readonly state: RestoreState }>,
  undefined
> {
  const { result: opened } = yield* openBackup(repository, backup);
  const { result: state } = yield* prepareState(context, start, opened);
  return { result: { prepared: await prepareRestore(context, start, opened, repository), state } };
}
