import { HoldfastError } from '@holdfast/common/errors.ts';
import type { VerifyBackupStart } from '@holdfast/proto/holdfast/agent/v1/agent.ts';
import { Stage, type Completed } from '@holdfast/proto/holdfast/v1/event.ts';
import { check } from '../stages/check.ts';
import { stage, type JobContext, type StageRun } from '../stages/context.ts';
import { openBackup } from '../stages/openBackup.ts';

export const VERIFY_STAGES: readonly Stage[] = [Stage.STAGE_PREPARE, Stage.STAGE_CHECK];

/** Proves a published backup: its manifest, its files' lengths, and each image's metadata. */
export async function* verifyBackup(context: JobContext, start: VerifyBackupStart): StageRun<Completed> {
  if (start.backup?.repository === undefined)
    throw new HoldfastError('INVALID_REQUEST', 'backup is missing.');
  const repository = await context.openRepository(start.backup.repository);
  try {
    const backup = yield* stage(context, Stage.STAGE_PREPARE, openBackup(repository, start.backup));
    const disks = yield* stage(
      context,
      Stage.STAGE_CHECK,
      check(context, repository, backup.disks, 'BACKUP_DAMAGED'),
    );
    return { result: { $case: 'verification', value: { level: 'metadata', disks } } };
  } finally {
    repository.close();
  }
}
