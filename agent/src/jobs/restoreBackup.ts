import { HoldfastError } from '@holdfast/common/errors.ts';
import type { RestoreBackupStart } from '@holdfast/proto/holdfast/agent/v1/agent.ts';
import { Stage, type Completed } from '@holdfast/proto/holdfast/v1/event.ts';
import { openRepository } from '../repository/repository.ts';
import { stage, type JobContext, type StageEnd, type StageRun } from '../stages/context.ts';
import { copy } from '../stages/copy.ts';
import { openBackup } from '../stages/openBackup.ts';
import { prepareRestore, type PreparedRestore } from '../stages/prepareRestore.ts';
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
  const { prepared, state } = yield* stage(context, Stage.STAGE_PREPARE, openAndPrepare(context, start));
  yield* copy(
    prepared.daemon,
    prepared.disks,
    context.control,
    {
      job: { kind: 'mirror' },
      stages: [Stage.STAGE_CONVERT],
      watch: () => Promise.resolve(),
      explain: (error) =>
        Promise.resolve(
          /no space left|quota exceeded/i.test(error)
            ? new HoldfastError('DIRECTORY_UNUSABLE', `There is no space left in ${start.directory}.`)
            : undefined,
        ),
    },
    context.now,
  );
  await finishRestore(prepared);
  const value = yield* stage(context, Stage.STAGE_PUBLISH, publishRestore(context, start, prepared, state));
  return { result: { $case: 'restore', value } };
}

async function* openAndPrepare(
  context: JobContext,
  start: RestoreBackupStart,
): AsyncGenerator<
  JobEvent,
  StageEnd<{ readonly prepared: PreparedRestore; readonly state: RestoreState }>,
  undefined
> {
  if (start.backup?.repository === undefined)
    throw new HoldfastError('INVALID_REQUEST', 'backup is missing.');
  const repository = openRepository(start.backup.repository);
  try {
    const { result: backup } = yield* openBackup(repository, start.backup);
    const { result: state } = yield* prepareState(context, start, backup);
    return { result: { prepared: await prepareRestore(context, start, backup), state } };
  } finally {
    repository.close();
  }
}
