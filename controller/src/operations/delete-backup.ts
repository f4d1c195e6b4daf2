import { setTimeout as sleep } from 'node:timers/promises';
import { DeleteBackupRequest } from '@holdfast/proto/holdfast/v1/backup.ts';
import { OperationKind, OperationOrigin, type Operation } from '@holdfast/proto/holdfast/v1/operation.ts';
import { anyHost, type BackupWorkParts } from './backup-work.ts';
import { endRest } from '../scrub/due.ts';
import { limitsFrom } from './limits.ts';
import { isEnded } from './reduce.ts';
import { cancelOperation, type SteerParts } from './steer.ts';
import { refuseBackupInUse } from './submit.ts';

const SECOND = 1_000;
/** A job ends within this when it is cancelled, also while its repository hangs. */
const SCRUB_END_DEADLINE_MS = 10 * SECOND;
const LOOK_MS = 50;

/**
 * Takes a deletion on. A scrub of the backup is cancelled first: nobody asked for it, and it would prove what shall be gone.
 *
 * @throws HoldfastError INVALID_REQUEST, BACKUP_NOT_FOUND, HOST_NOT_FOUND, AGENT_UNREACHABLE, IN_USE while another
 *   operation than a scrub works on the backup
 */
export async function deleteBackup(
  parts: BackupWorkParts & SteerParts,
  request: DeleteBackupRequest,
  correlationId: string,
): Promise<Operation> {
  const repeatable = {
    kind: OperationKind.OPERATION_KIND_DELETE_BACKUP,
    requestId: request.requestId,
    content: DeleteBackupRequest.toJSON(request),
  };
  const earlier = await parts.submit.earlier(repeatable);
  if (earlier !== undefined) return earlier;

  const { backup } = await parts.catalog.find(request.backupId);
  const others = [
    OperationKind.OPERATION_KIND_VERIFY_BACKUP,
    OperationKind.OPERATION_KIND_RESTORE_BACKUP,
    OperationKind.OPERATION_KIND_DELETE_BACKUP,
  ];
  const repository = await parts.repositories.find(backup.repository);
  const { host, reason } = await anyHost(parts, backup, 'delete the backup');
  const cancelledScrub = await endScrub(parts, backup.id);
  return await parts.submit.accept({
    request: repeatable,
    job: {
      kind: 'delete',
      request: {
        zone: backup.zone,
        repository: await parts.repositories.ref(repository),
        backupId: backup.id,
        path: backup.path,
        cloudstack: undefined,
        timeoutMinutes: limitsFrom(await parts.settings.resolve(backup.zone)).timeoutMinutes,
        onlyBegun: false,
      },
    },
    operation: {
      zone: backup.zone,
      host,
      hostReason: reason,
      repository: backup.repository,
      backupId: backup.id,
      domainName: backup.domainName,
      domainUuid: backup.domainUuid,
      correlationId,
    },
    anyHost: true,
    guard: async (trx) => {
      await refuseBackupInUse(trx, backup.id, others);
      if (cancelledScrub) await endRest(trx, backup.repository);
    },
  });
}

/** Cancels the scrub of a backup, if there is one, and waits for its end. @returns whether there was one */
async function endScrub(parts: BackupWorkParts & SteerParts, backupId: string): Promise<boolean> {
  const scrub = await parts.store.db
    .selectFrom('operations')
    .select('id')
    .where('active', '=', 1)
    .where('backup_id', '=', backupId)
    .where('origin', '=', OperationOrigin.OPERATION_ORIGIN_SCRUB)
    .executeTakeFirst();
  if (scrub === undefined) return false;
  let operation = await cancelOperation(parts, scrub.id);
  const deadlineMs = performance.now() + SCRUB_END_DEADLINE_MS;
  // One that does not end, since its host is away, is in use.
  while (!isEnded(operation.state) && performance.now() < deadlineMs) {
    await sleep(LOOK_MS);
    operation = await parts.journal.find(scrub.id);
  }
  return true;
}
