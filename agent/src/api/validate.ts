import { isAbsolute, normalize } from 'node:path';
import { HoldfastError } from '@holdfast/common/errors.ts';
import { requireRbdTarget } from '@holdfast/common/rbdTarget.ts';
import { parseRepositoryPlace } from '@holdfast/common/repository.ts';
import { MAX_BANDWIDTH_MIBPS } from '@holdfast/common/settings.ts';
import { isUuid } from '@holdfast/common/uuid.ts';
import type {
  BackupRef,
  DeleteBackupRequest,
  JobLimits,
  RepositoryRef,
  RestoreBackupStart,
  TakeBackupStart,
  VerifyBackupStart,
  WriteKeyFilesRequest,
} from '@holdfast/proto/holdfast/agent/v1/agent.ts';

const AGE_IDENTITY = /^AGE-SECRET-KEY-1[A-Z0-9]{58}$/;
const MIB = 1_048_576n;
const COMPRESSIONS: readonly string[] = ['', 'zstd', 'zlib'];
const TRANSPORTS: readonly string[] = ['', 'auto', 'pull', 'push'];
const ENFORCEMENTS: readonly string[] = ['', 'fail', 'warn'];
const QUIESCE_MODES: readonly string[] = ['', 'off', 'best-effort', 'required'];

/** @throws HoldfastError INVALID_REQUEST when a field is not there. */
export function requireField<Value>(value: Value | undefined, name: string): Value {
  if (value === undefined) throw refuse(`${name} is missing.`);
  return value;
}

/** @throws HoldfastError ZONE_MISMATCH: an agent obeys its own zone only. */
export function requireZone(own: string, given: string): void {
  if (given === own) return;
  throw new HoldfastError(
    'ZONE_MISMATCH',
    `This agent belongs to zone ${JSON.stringify(own)}, the request is for zone ${JSON.stringify(given)}.`,
  );
}

/** @throws HoldfastError INVALID_REQUEST when a limit is negative or absurd. */
export function requireBandwidth(limitMibps: bigint): void {
  if (limitMibps >= 0n && limitMibps <= BigInt(MAX_BANDWIDTH_MIBPS)) return;
  throw refuse(
    `bandwidth_limit_mibps must be from 0 (unlimited) to ${MAX_BANDWIDTH_MIBPS}, not ${limitMibps}.`,
  );
}

/** @throws HoldfastError INVALID_REQUEST when a share is negative or absurd. */
export function requireShare(bytesPerSecond: bigint): void {
  if (bytesPerSecond >= 0n && bytesPerSecond <= BigInt(MAX_BANDWIDTH_MIBPS) * MIB) return;
  throw refuse(
    `A share must be from 0 (none) to ${MAX_BANDWIDTH_MIBPS} MiB/s, not ${bytesPerSecond} bytes/s.`,
  );
}

/** The start message in one form, with all checked that can be checked without touching anything. */
export function validBackup(start: TakeBackupStart): TakeBackupStart {
  requireUuid(start.backupId, 'backup_id');
  if (start.domain === '') throw refuse('domain is missing.');
  const repository = validRepository(requireField(start.repository, 'repository'));
  const options = requireField(start.options, 'options');
  if (!COMPRESSIONS.includes(options.compression))
    throw refuse('options.compression must be zstd, zlib or empty.');
  if (!QUIESCE_MODES.includes(options.quiesce))
    throw refuse('options.quiesce must be off, best-effort or required.');
  if (!TRANSPORTS.includes(options.transport))
    throw refuse('options.transport must be auto, pull, push or empty.');
  if (!ENFORCEMENTS.includes(options.bandwidthEnforce))
    throw refuse('options.bandwidth_enforce must be fail, warn or empty.');
  requireBandwidth(options.bandwidthLimitMibps);
  const { repositoryReservePercent: percent } = options;
  if (percent < 0 || percent > 90) throw refuse('options.repository_reserve_percent must be from 0 to 90.');
  if (!(start.storedRatio >= 0 && start.storedRatio < Infinity))
    throw refuse('stored_ratio must be a number that is not negative.');
  requireLimits(start.limits);
  requireShare(options.bandwidthShareBytesPerSecond);
  validLayout(start);
  if (start.key === undefined) return { ...start, repository };
  requireSecret(start.key.secret);
  requireKeyId(start.key.keyId);
  if (start.key.wrappedKey.length === 0 || start.key.zoneKeyFile.length === 0) {
    throw refuse(
      'key.wrapped_key and key.zone_key_file are required: without them the backup could not be opened.',
    );
  }
  return { ...start, repository };
}

function validLayout({ cloudstack, key, passphrase, volumes }: TakeBackupStart): void {
  if (cloudstack === undefined) {
    if (passphrase !== '' || volumes.length > 0)
      throw refuse("passphrase and volumes go with CloudStack's names only.");
    return;
  }
  requireFolder(cloudstack.folder, 'cloudstack.folder');
  if (key !== undefined) throw refuse("key does not go with CloudStack's names; give the passphrase itself.");
  // What QEMU would cut off at the zero byte would be another passphrase.
  if (passphrase.includes('\0'))
    throw refuse('passphrase has a zero byte in it, which LUKS in QEMU does not take.');
  for (const volume of volumes) {
    if ((isAbsolute(volume) || volume.startsWith('rbd:')) && !volume.includes('\0')) continue;
    throw refuse(`volumes must be absolute paths or names that start with rbd:.`);
  }
}

/** Checks all of a deletion that can be checked without touching anything. */
export function validDelete(request: DeleteBackupRequest): DeleteBackupRequest {
  if (request.timeoutMinutes < 0) throw refuse('timeout_minutes must not be negative.');
  if (request.cloudstack === undefined) return request;
  requireFolder(request.cloudstack.folder, 'cloudstack.folder');
  if (request.backupId !== '' || request.path !== '')
    throw refuse("backup_id and path do not go with CloudStack's names.");
  return request;
}

/** A folder that cannot lead out of its repository, nor be the repository itself. */
function requireFolder(folder: string, name: string): void {
  const parts = folder.split('/');
  if (folder.includes('\0') || parts.some((part) => part === '' || part === '.' || part === '..')) {
    throw refuse(
      `${name} ${JSON.stringify(folder)} must be a path inside of the repository, without . and .. in it.`,
    );
  }
}

/** Checks all of key files that can be checked without touching anything. */
export function validKeyFiles(request: WriteKeyFilesRequest): WriteKeyFilesRequest {
  if (request.fencingEpoch < 0n || request.fencingEpoch >= 10n ** 15n)
    throw refuse('fencing_epoch must not be negative, nor beyond fifteen digits.');
  for (const { keyId } of [...request.zoneKeys, ...request.replacedZoneKeys]) requireKeyId(keyId);
  for (const { content } of request.replacedZoneKeys)
    if (content.length === 0) throw refuse('replaced_zone_keys.content is missing.');
  for (const { path, keyId, wrappedKey } of request.backups) {
    requireFolder(path, 'backups.path');
    requireKeyId(keyId);
    if (wrappedKey.length === 0) throw refuse('backups.wrapped_key is missing.');
  }
  return request;
}

/** The name of a file is made of it. */
export function requireKeyId(keyId: string): void {
  if (!/^[\w-]{1,128}$/.test(keyId)) throw refuse('key_id must be a short plain word.');
}

function requireLimits(limits: JobLimits | undefined): void {
  if (limits === undefined) return;
  if (limits.repositoryWaitSeconds < 0 || limits.timeoutMinutes < 0)
    throw refuse('limits must not be negative.');
}

export function validVerify(start: VerifyBackupStart): VerifyBackupStart {
  requireLimits(start.limits);
  requireBandwidth(start.bandwidthLimitMibps);
  requireShare(start.bandwidthShareBytesPerSecond);
  return { ...start, backup: requireBackup(start.backup) };
}

export function validRestore(start: RestoreBackupStart): RestoreBackupStart {
  const backup = requireBackup(start.backup);
  requireLimits(start.limits);
  requireBandwidth(start.bandwidthLimitMibps);
  requireShare(start.bandwidthShareBytesPerSecond);
  if (start.rbd !== undefined) requireRbdTarget(start.rbd);
  const noFiles = start.rbd !== undefined && start.disks.length > 0 && start.directory === '';
  if (!noFiles && (!isAbsolute(start.directory) || start.directory.includes('\0'))) {
    throw refuse('directory must be an absolute path.');
  }
  return { ...start, backup };
}

function requireBackup(backup: BackupRef | undefined): BackupRef {
  const given = requireField(backup, 'backup');
  const repository = validRepository(requireField(given.repository, 'backup.repository'));
  requireUuid(given.backupId, 'backup.backup_id');
  const path = normalize(given.path);
  if (given.path === '' || isAbsolute(path) || path.startsWith('..') || path.includes('\0')) {
    throw refuse('backup.path must lie in the repository.');
  }
  if (given.secret !== '') requireSecret(given.secret);
  return { ...given, repository };
}

/** The repository with its place in one form. @throws HoldfastError INVALID_REQUEST */
export function validRepository(repository: RepositoryRef): RepositoryRef {
  if (repository.repositoryId !== '') requireUuid(repository.repositoryId, 'repository.repository_id');
  return { ...repository, ...parseRepositoryPlace(repository) };
}

function requireUuid(text: string, name: string): void {
  if (!isUuid(text)) throw refuse(`${name} must be a UUID.`);
}

/** Says nothing of what was given. */
function requireSecret(text: string): void {
  if (!AGE_IDENTITY.test(text)) throw refuse('The key must be an age identity (AGE-SECRET-KEY-1...).');
}

function refuse(message: string): HoldfastError {
  return new HoldfastError('INVALID_REQUEST', message);
}
