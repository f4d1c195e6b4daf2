import { VerifyBackupRequest } from '@holdfast/proto/holdfast/v1/backup.ts';
import { requireDigests } from '@holdfast/common/digestLists.ts';
import { HoldfastError } from '@holdfast/common/errors.ts';
import { MAX_BANDWIDTH_MIBPS } from '@holdfast/common/settings.ts';
import { Operation, OperationKind, OperationOrigin } from '@holdfast/proto/holdfast/v1/operation.ts';
import { anyHost, backupRef, wantedHost, type BackupWorkParts } from './backup-work.ts';
import { limitsFrom } from './limits.ts';
import { refuseBackupInUse } from './submit.ts';
import type { Store, Trx } from '../store/store.ts';
import { textOf, type ResolvedSettings } from '../zones/resolve.ts';

/** Who asks for a verification, when it is no caller. */
export interface Asker {
  readonly origin: OperationOrigin;
  /** One more look in the transaction that stores the operation. */
  readonly guard: (trx: Trx) => Promise<void>;
}

const A_CALLER: Asker = {
  origin: OperationOrigin.OPERATION_ORIGIN_REQUEST,
  guard: () => Promise.resolve(),
};

/**
 * Takes a verification on.
 *
 * @throws HoldfastError INVALID_REQUEST, BACKUP_NOT_FOUND, HOST_NOT_FOUND, ZONE_MISMATCH, AGENT_UNREACHABLE, KEY_WRONG,
 *   DIGESTS_MISSING when the backup has none to compare, IN_USE while the backup is being deleted
 */
export async function verifyBackup(
  parts: BackupWorkParts,
  request: VerifyBackupRequest,
  correlationId: string,
  { origin, guard }: Asker = A_CALLER,
): Promise<Operation> {
  const repeatable = {
    kind: OperationKind.OPERATION_KIND_VERIFY_BACKUP,
    requestId: request.requestId,
    content: VerifyBackupRequest.toJSON(request),
  };
  const earlier = await parts.submit.earlier(repeatable);
  if (earlier !== undefined) return earlier;

  requireValid(request);
  const found = await parts.catalog.find(request.backupId);
  const { backup } = found;
  const settings = await parts.settings.resolve(backup.zone, {});
  const level = levelOf(request, settings);
  requireDigests(backup.id, backup.manifest?.disks ?? [], level);
  const isAny = request.host === '';
  const { host, reason } = isAny
    ? await anyHost(parts, backup, 'verify the backup')
    : await wantedHost(parts, request.host, backup);
  // Bytes as they lie there are compared without a key, which then stays here.
  const reference = await backupRef(
    parts,
    level === 'stored' ? { backup, key: undefined } : found,
    request.passphrase,
  );
  return await parts.submit.accept({
    request: repeatable,
    job: {
      kind: 'verify',
      start: {
        header: undefined,
        backup: reference,
        limits: limitsFrom(settings),
        level,
        samplePercent: request.samplePercent,
        sampleIndex: await samplesOf(parts.store, backup.id, level),
        bandwidthLimitMibps: request.bandwidthLimitMibps,
        // Known when it begins.
        bandwidthShareBytesPerSecond: 0n,
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
      bandwidthLimitMibps: request.bandwidthLimitMibps,
      correlationId,
      origin,
    },
    anyHost: isAny,
    guard: async (trx) => {
      await refuseBackupInUse(trx, backup.id, [OperationKind.OPERATION_KIND_DELETE_BACKUP]);
      await guard(trx);
    },
  });
}

const LEVELS = ['metadata', 'stored', 'content'];

function requireValid({ level, samplePercent, bandwidthLimitMibps }: VerifyBackupRequest): void {
  const refuse = (what: string): HoldfastError => new HoldfastError('INVALID_REQUEST', what);
  if (level !== '' && !LEVELS.includes(level)) {
    throw refuse(`level must be one of ${LEVELS.join(', ')}, not ${JSON.stringify(level)}.`);
  }
  if (samplePercent < 0 || samplePercent > 100) throw refuse('sample_percent must be from 0 (all) to 100.');
  if (bandwidthLimitMibps < 0n || bandwidthLimitMibps > MAX_BANDWIDTH_MIBPS) {
    throw refuse(`bandwidth_limit_mibps must be from 0 (unlimited) to ${MAX_BANDWIDTH_MIBPS}.`);
  }
}

/** Once a backup is published nothing holds its source any more. */
function levelOf({ level }: VerifyBackupRequest, settings: ResolvedSettings): string {
  const wanted = level === '' ? textOf(settings, 'nas.backup.integrity.level') : level;
  return wanted === 'source' ? 'content' : wanted;
}

/**
 * How often the backup was verified at a level: each time it is the turn of another part of its chunks. One that was
 * cancelled, or that a repository kept from its end, took no turn.
 */
async function samplesOf({ db }: Store, backupId: string, level: string): Promise<bigint> {
  const rows = await db
    .selectFrom('operations')
    .select('operation_message')
    .where('backup_id', '=', backupId)
    .where('kind', '=', OperationKind.OPERATION_KIND_VERIFY_BACKUP)
    .execute();
  const levels = rows.map((row) => {
    const { result, damages } = Operation.decode(row.operation_message);
    return result?.result?.$case === 'verification' ? result.result.value.level : damages[0]?.level;
  });
  return BigInt(levels.filter((each) => each === level).length);
}
