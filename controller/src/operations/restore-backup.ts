import { isAbsolute, normalize } from 'node:path/posix';
import { HoldfastError } from '@holdfast/common/errors.ts';
import { requireRbdTarget } from '@holdfast/common/rbdTarget.ts';
import { MAX_BANDWIDTH_MIBPS } from '@holdfast/common/settings.ts';
import { ImageFormat, RestoreBackupRequest, type Backup } from '@holdfast/proto/holdfast/v1/backup.ts';
import { OperationKind, type Operation } from '@holdfast/proto/holdfast/v1/operation.ts';
import { backupRef, wantedHost, type BackupWorkParts } from './backup-work.ts';
import { limitsFrom } from './limits.ts';
import { refuseBackupInUse } from './submit.ts';

/** Longer than any name that libvirt keeps. */
const MAX_DOMAIN_NAME_BYTES = 1_024;

/**
 * Takes a restore on.
 *
 * @throws HoldfastError INVALID_REQUEST, BACKUP_NOT_FOUND, HOST_NOT_FOUND, ZONE_MISMATCH, DISK_NOT_FOUND,
 *   AGENT_UNREACHABLE, KEY_WRONG, IN_USE while the backup is being deleted
 */
export async function restoreBackup(
  parts: BackupWorkParts,
  request: RestoreBackupRequest,
  correlationId: string,
): Promise<Operation> {
  const repeatable = {
    kind: OperationKind.OPERATION_KIND_RESTORE_BACKUP,
    requestId: request.requestId,
    content: RestoreBackupRequest.toJSON(request),
  };
  const earlier = await parts.submit.earlier(repeatable);
  if (earlier !== undefined) return earlier;

  const bandwidthLimitMibps = parseBandwidth(request.bandwidthLimitMibps);
  const { rbd } = request;
  if (rbd !== undefined) requireRbdTarget(rbd);
  const disksAlone = rbd !== undefined && request.disks.length > 0;
  const directory = disksAlone && request.directory === '' ? '' : parseDirectory(request.directory);
  const domainName = parseDomainName(request.domainName);
  const format = parseFormat(request.format);
  const found = await parts.catalog.find(request.backupId);
  const { backup } = found;
  const disks = parseDisks(request.disks, backup);
  const { host, reason } = await wantedHost(parts, request.host, backup);
  const reference = await backupRef(parts, found, request.passphrase);
  const settings = await parts.settings.resolve(backup.zone, {});
  return await parts.submit.accept({
    request: repeatable,
    job: {
      kind: 'restore',
      start: {
        header: undefined,
        backup: reference,
        directory,
        format,
        disks,
        domainName,
        bandwidthLimitMibps,
        // Known when it begins.
        bandwidthShareBytesPerSecond: 0n,
        rbd,
        limits: limitsFrom(settings),
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
      bandwidthLimitMibps,
    },
    anyHost: false,
    guard: (trx) => refuseBackupInUse(trx, backup.id, [OperationKind.OPERATION_KIND_DELETE_BACKUP]),
  });
}

/** A limit in MiB/s. @throws HoldfastError INVALID_REQUEST for a negative or absurd one */
export function parseBandwidth(limitMibps: bigint): bigint {
  if (limitMibps >= 0n && limitMibps <= BigInt(MAX_BANDWIDTH_MIBPS)) return limitMibps;
  throw new HoldfastError(
    'INVALID_REQUEST',
    `The bandwidth limit must be from 0 to ${MAX_BANDWIDTH_MIBPS} MiB/s, not ${String(limitMibps)}.`,
  );
}

function parseDirectory(directory: string): string {
  if (isAbsolute(directory) && !directory.includes('\0')) return normalize(directory);
  throw new HoldfastError(
    'INVALID_REQUEST',
    `The directory ${JSON.stringify(directory)} is not an absolute path.`,
  );
}

function parseDomainName(name: string): string {
  if (name === '') return name;
  const fits = name.isWellFormed() && Buffer.byteLength(name) <= MAX_DOMAIN_NAME_BYTES;
  // libvirt refuses slashes and names of spaces alone (virDomainDefPostParse); the others would break its log lines.
  if (fits && name.trim() !== '' && !/[/\n\r\0]/.test(name)) return name;
  throw new HoldfastError('INVALID_REQUEST', `${JSON.stringify(name)} cannot be the name of a domain.`);
}

function parseFormat(format: ImageFormat): ImageFormat {
  switch (format) {
    case ImageFormat.IMAGE_FORMAT_UNSPECIFIED:
    case ImageFormat.IMAGE_FORMAT_QCOW2:
      return ImageFormat.IMAGE_FORMAT_QCOW2;
    case ImageFormat.IMAGE_FORMAT_RAW:
      return ImageFormat.IMAGE_FORMAT_RAW;
    default:
      throw new HoldfastError('INVALID_REQUEST', `There is no image format ${String(format)}.`);
  }
}

function parseDisks(targets: readonly string[], backup: Backup): string[] {
  const known = backup.manifest?.disks.map((disk) => disk.target) ?? [];
  for (const target of targets) {
    if (known.includes(target)) continue;
    throw new HoldfastError(
      'DISK_NOT_FOUND',
      `Backup ${backup.id} has no disk ${JSON.stringify(target)}; it has ${known.join(', ')}.`,
      { metadata: { backup: backup.id, target } },
    );
  }
  return [...new Set(targets)];
}
