import { fromStatus } from '@holdfast/common/errors.ts';
import type { OperationEvent } from '@holdfast/proto/holdfast/v1/event.ts';
import type { Operation } from '@holdfast/proto/holdfast/v1/operation.ts';
import { insertBackup, noteVerification, removeBackup } from '../catalog/backups.ts';
import { requireKeysDone } from '../keys/work.ts';
import type { Trx } from '../store/store.ts';
import type { Job } from './job.ts';

/** Brings the catalogue to what an operation has come to, in the transaction that stores its last event. */
export async function conclude(
  trx: Trx,
  job: Job,
  operation: Operation,
  event: OperationEvent,
): Promise<void> {
  const time = event.time ?? new Date(0);
  switch (job.kind) {
    case 'take': {
      if (event.event?.$case !== 'completed' || event.event.value.result?.$case !== 'backup') return;
      const result = event.event.value.result.value;
      if (result.manifest === undefined) return;
      const { key_escrow_id: escrowId } = await trx
        .selectFrom('operations')
        .select('key_escrow_id')
        .where('id', '=', operation.id)
        .executeTakeFirstOrThrow();
      await insertBackup(
        trx,
        {
          id: operation.backupId,
          zone: operation.zone,
          host: operation.host,
          repository: operation.repository,
          result,
          manifest: result.manifest,
          escrowId,
          key: job.start.key && { keyId: job.start.key.keyId, wrappedKey: job.start.key.wrappedKey },
        },
        time,
      );
      return;
    }
    case 'verify': {
      const found = verdict(event);
      if (found !== undefined) await noteVerification(trx, operation.backupId, { time, ...found });
      return;
    }
    case 'delete':
      if (event.event?.$case === 'completed') await removeBackup(trx, operation.backupId);
      return;
    case 'restore':
      return;
    case 'keys':
      if (event.event?.$case === 'completed') await requireKeysDone(trx, operation.zone);
  }
}

/** What the end of a verification says of the backup; nothing when it could not be looked at. */
function verdict(
  event: OperationEvent,
): { readonly level: string; readonly intact: boolean; readonly message: string } | undefined {
  if (event.event?.$case === 'completed' && event.event.value.result?.$case === 'verification') {
    return { level: event.event.value.result.value.level, intact: true, message: '' };
  }
  if (event.event?.$case !== 'failed') return undefined;
  const { reason, message } = fromStatus(event.event.value);
  return reason === 'BACKUP_DAMAGED' || reason === 'CHECK_FAILED'
    ? { level: '', intact: false, message }
    : undefined;
}

/** Whether a completion tells what its kind of job must tell. */
export function isWholeResult(job: Job, event: OperationEvent['event']): boolean {
  if (event?.$case !== 'completed') return true;
  const result = event.value.result;
  switch (job.kind) {
    case 'take':
      return result?.$case === 'backup' && result.value.manifest !== undefined;
    case 'verify':
      return result?.$case === 'verification';
    case 'restore':
      return result?.$case === 'restore';
    case 'delete':
      return result?.$case === 'deletion';
    case 'keys':
      return result?.$case === 'keys';
  }
}
