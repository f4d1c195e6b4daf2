import { VerifyBackupRequest } from '@holdfast/proto/holdfast/v1/backup.ts';
import { OperationKind, type Operation } from '@holdfast/proto/holdfast/v1/operation.ts';
import { anyHost, backupRef, wantedHost, type BackupWorkParts } from './backup-work.ts';
import { limitsFrom } from './limits.ts';
import { refuseBackupInUse } from './submit.ts';

/**
 * Takes a verification on.
 *
 * @throws HoldfastError INVALID_REQUEST, BACKUP_NOT_FOUND, HOST_NOT_FOUND, ZONE_MISMATCH, AGENT_UNREACHABLE, KEY_WRONG,
 *   IN_USE while the backup is being deleted
 */
export async function verifyBackup(
  parts: BackupWorkParts,
  request: VerifyBackupRequest,
  correlationId: string,
): Promise<Operation> {
  const repeatable = {
    kind: OperationKind.OPERATION_KIND_VERIFY_BACKUP,
    requestId: request.requestId,
    content: VerifyBackupRequest.toJSON(request),
  };
  const earlier = await parts.submit.earlier(repeatable);
  if (earlier !== undefined) return earlier;

  const found = await parts.catalog.find(request.backupId);
  const { backup } = found;
  const isAny = request.host === '';
  const { host, reason } = isAny
    ? await anyHost(parts, backup, 'verify the backup')
    : await wantedHost(parts, request.host, backup);
  const reference = await backupRef(parts, found, request.passphrase);
  const settings = await parts.settings.resolve(backup.zone, {});
  return await parts.submit.accept({
    request: repeatable,
    job: {
      kind: 'verify',
      start: { header: undefined, backup: reference, limits: limitsFrom(settings) },
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
    anyHost: isAny,
    guard: (trx) => refuseBackupInUse(trx, backup.id, [OperationKind.OPERATION_KIND_DELETE_BACKUP]),
  });
}
