import { DeleteBackupRequest } from '@holdfast/proto/holdfast/v1/backup.ts';
import { OperationKind, type Operation } from '@holdfast/proto/holdfast/v1/operation.ts';
import { anyHost, type BackupWorkParts } from './backup-work.ts';
import { refuseBackupInUse } from './submit.ts';

/**
 * Takes a deletion on.
 *
 * @throws HoldfastError INVALID_REQUEST, BACKUP_NOT_FOUND, HOST_NOT_FOUND, AGENT_UNREACHABLE, IN_USE while another
 *   operation works on the backup
 */
export async function deleteBackup(
  parts: BackupWorkParts,
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
    guard: (trx) => refuseBackupInUse(trx, backup.id, others),
  });
}
