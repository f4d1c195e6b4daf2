import { fromStatus } from '@holdfast/common/errors.ts';
import type { OperationEvent, Warning } from '@holdfast/proto/holdfast/v1/event.ts';
import { OperationOrigin, type Operation } from '@holdfast/proto/holdfast/v1/operation.ts';
import { settingDefinitions } from '@holdfast/common/settings.ts';
import { insertBackup, removeBackup } from '../catalog/backups.ts';
import { isDamage, noteVerification, type Verification } from '../catalog/proofs.ts';
import { requireKeysDone } from '../keys/work.ts';
import { noteScrubEnd, type ScrubEnd } from '../scrub/due.ts';
import type { Trx } from '../store/store.ts';
import type { Job } from './job.ts';

/**
 * Brings the catalogue to what an operation has come to, in the transaction that stores its last event.
 *
 * @param now by the clock of the controller; the event's time is by the host's
 * @returns what is to be told of it before that event
 */
export async function conclude(
  trx: Trx,
  job: Job,
  operation: Operation,
  event: Pick<OperationEvent, 'event' | 'time'>,
  now: Date,
): Promise<readonly Warning[]> {
  const time = event.time ?? now;
  switch (job.kind) {
    case 'take': {
      if (event.event?.$case !== 'completed' || event.event.value.result?.$case !== 'backup') return [];
      const result = event.event.value.result.value;
      if (result.manifest === undefined) return [];
      const { key_escrow_id: escrowId } = await trx
        .selectFrom('operations')
        .select('key_escrow_id')
        .where('id', '=', operation.id)
        .executeTakeFirstOrThrow();
      return await insertBackup(
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
        now,
        toleranceOf(operation),
      );
    }
    case 'verify': {
      const found = verdict(event, job.start.level === '' ? 'metadata' : job.start.level);
      const { id: operationId, backupId } = operation;
      const scrub = operation.origin === OperationOrigin.OPERATION_ORIGIN_SCRUB;
      if (scrub) await noteScrubEnd(trx, operation, scrubEnd(event, found), now);
      if (found !== undefined)
        await noteVerification(trx, backupId, { time, operationId, scrub, ...found }, now);
      return [];
    }
    case 'delete':
      if (event.event?.$case === 'completed') await removeBackup(trx, operation.backupId);
      return [];
    case 'restore':
      return [];
    case 'keys':
      if (event.event?.$case === 'completed') await requireKeysDone(trx, operation.zone);
      return [];
  }
}

/** The tolerance under which an operation works; the default for one that was taken on before there was any. */
function toleranceOf({ settings }: Operation): number {
  const key = 'nas.backup.plausibility.tolerance.percent';
  return Number(settings.find((each) => each.key === key)?.value ?? settingDefinitions[key].defaultValue);
}

/** What the end of a verification says of the backup; nothing when it could not be looked at. */
function verdict(
  event: Pick<OperationEvent, 'event'>,
  level: string,
): Omit<Verification, 'time' | 'operationId' | 'scrub'> | undefined {
  if (event.event?.$case === 'completed' && event.event.value.result?.$case === 'verification') {
    const { level: proved, samplePercent } = event.event.value.result.value;
    return { level: proved, samplePercent, intact: true, message: '' };
  }
  if (event.event?.$case !== 'failed') return undefined;
  const { reason, message } = fromStatus(event.event.value);
  return isDamage(reason) ? { level, samplePercent: 100, intact: false, message } : undefined;
}

function scrubEnd(event: Pick<OperationEvent, 'event'>, found: object | undefined): ScrubEnd {
  if (found !== undefined || event.event?.$case !== 'failed') return { kind: 'found' };
  const { reason, message } = fromStatus(event.event.value);
  return reason === 'CANCELLED' ? { kind: 'cancelled' } : { kind: 'failed', message };
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
