import { HoldfastError } from '@holdfast/common/errors.ts';
import type { VerifyBackupStart } from '@holdfast/proto/holdfast/agent/v1/agent.ts';
import { Stage, type Completed } from '@holdfast/proto/holdfast/v1/event.ts';
import { stage, type JobContext, type StageRun } from '../stages/context.ts';
import { openProvable } from '../stages/openProvable.ts';
import { prove } from '../stages/prove.ts';

export const VERIFY_STAGES: readonly Stage[] = [Stage.STAGE_PREPARE, Stage.STAGE_CHECK];

/** Proves a published backup: its manifest, its files' lengths, and its images to the level that was asked for. */
export async function* verifyBackup(context: JobContext, start: VerifyBackupStart): StageRun<Completed> {
  if (start.backup?.repository === undefined)
    throw new HoldfastError('INVALID_REQUEST', 'backup is missing.');
  const repository = await context.openRepository(start.backup.repository);
  try {
    const level = start.level === '' ? 'metadata' : start.level;
    const images = yield* stage(context, Stage.STAGE_PREPARE, openProvable(repository, start.backup, level));
    const value = yield* stage(
      context,
      Stage.STAGE_CHECK,
      prove(context, repository, images, {
        level,
        sample: {
          percent: start.samplePercent === 0 ? 100 : start.samplePercent,
          index: Number(start.sampleIndex),
        },
        damage: 'BACKUP_DAMAGED',
      }),
    );
    return { result: { $case: 'verification', value } };
  } finally {
    repository.close();
  }
}
