import { unary, type CallContext } from '@holdfast/common/call.ts';
import type { Logger } from '@holdfast/common/logger.ts';
import type { Service } from '@holdfast/common/server.ts';
import { BackupServiceService, type BackupServiceServer } from '@holdfast/proto/holdfast/v1/backup.ts';
import type { Operation } from '@holdfast/proto/holdfast/v1/operation.ts';
import type { BackupWorkParts } from '../operations/backup-work.ts';
import { deleteBackup } from '../operations/delete-backup.ts';
import { restoreBackup } from '../operations/restore-backup.ts';
import type { SteerParts } from '../operations/steer.ts';
import { takeBackup, type TakeBackupParts } from '../operations/take-backup.ts';
import { verifyBackup } from '../operations/verify-backup.ts';

export function backupService(
  parts: TakeBackupParts & BackupWorkParts & SteerParts & { logger: Logger },
): Service {
  const { catalog, logger } = parts;
  const implementation: BackupServiceServer = {
    takeBackup: unary(logger, async (request, context) =>
      accepted('backup', await takeBackup(parts, request, context.correlationId), context),
    ),
    verifyBackup: unary(logger, async (request, context) =>
      accepted('verification', await verifyBackup(parts, request, context.correlationId), context),
    ),
    restoreBackup: unary(logger, async (request, context) =>
      accepted('restore', await restoreBackup(parts, request, context.correlationId), context),
    ),
    deleteBackup: unary(logger, async (request, context) =>
      accepted('deletion', await deleteBackup(parts, request, context.correlationId), context),
    ),
    getBackup: unary(logger, async ({ backupId }) => {
      const { backup } = await catalog.find(backupId);
      return { backup };
    }),
    listBackups: unary(logger, (request) => catalog.list(request)),
  };
  return { name: 'holdfast.v1.BackupService', definition: BackupServiceService, implementation };
}

function accepted(what: string, operation: Operation, { logger }: CallContext): { operation: Operation } {
  logger.info(`${what} accepted`, {
    operationId: operation.id,
    backupId: operation.backupId,
    zone: operation.zone,
    host: operation.host,
    domain: operation.domainName,
  });
  return { operation };
}
