import { randomUUID } from 'node:crypto';
import { HoldfastError } from '@holdfast/common/errors.ts';
import type { BackupOptions } from '@holdfast/proto/holdfast/agent/v1/agent.ts';
import { TakeBackupRequest } from '@holdfast/proto/holdfast/v1/backup.ts';
import type { Domain } from '@holdfast/proto/holdfast/v1/host.ts';
import { OperationKind, type Operation } from '@holdfast/proto/holdfast/v1/operation.ts';
import { lastStoredRatio } from '../catalog/backups.ts';
import type { Agents } from '../fleet/agents.ts';
import { findDomain } from '../fleet/find-domain.ts';
import type { Hosts } from '../fleet/hosts.ts';
import type { Repositories } from '../fleet/repositories.ts';
import type { Keys } from '../keys/keys.ts';
import type { Db, Store, Trx } from '../store/store.ts';
import {
  booleanOf,
  describeSettings,
  integerOf,
  secretOf,
  textOf,
  type ResolvedSettings,
} from '../zones/resolve.ts';
import type { Settings } from '../zones/settings.ts';
import type { Zones } from '../zones/zones.ts';
import { limitsFrom } from './limits.ts';
import type { Submission, Submit } from './submit.ts';

export interface TakeBackupParts {
  readonly store: Store;
  readonly zones: Zones;
  readonly settings: Settings;
  readonly hosts: Hosts;
  readonly agents: Agents;
  readonly repositories: Repositories;
  readonly keys: Keys;
  readonly submit: Submit;
}

/** Thrown when the zone's key, passphrase or escrow was changed since the backup's key was made. */
const KEY_CHANGED = new Error('the keys of the zone were changed');

const DOMAIN_STATES = ['running', 'shut off'];

/**
 * Takes a backup on: everything that can be known to be wrong is found here, before anything is stored or touched.
 *
 * @throws HoldfastError INVALID_REQUEST, SETTING_UNKNOWN, SETTING_INVALID, ZONE_NOT_FOUND, HOST_NOT_FOUND,
 *   REPOSITORY_NOT_FOUND, ZONE_MISMATCH, DOMAIN_NOT_FOUND, DOMAIN_STATE, DOMAIN_BUSY, PASSPHRASE_MISSING,
 *   AGENT_UNREACHABLE
 */
export async function takeBackup(
  parts: TakeBackupParts,
  request: TakeBackupRequest,
  correlationId: string,
): Promise<Operation> {
  const { store, zones, keys, submit } = parts;
  const repeatable = {
    kind: OperationKind.OPERATION_KIND_TAKE_BACKUP,
    requestId: request.requestId,
    content: TakeBackupRequest.toJSON(request),
  };
  const earlier = await submit.earlier(repeatable);
  if (earlier !== undefined) return earlier;

  const { zone } = request;
  await zones.require(zone);
  const settings = await parts.settings.resolve(zone, request.settings);
  const encrypted = booleanOf(settings, 'nas.backup.encryption.enabled');
  const passphrase = secretOf(settings, 'nas.backup.encryption.passphrase');
  if (encrypted && passphrase.value.reveal() === '') throw passphraseMissing(zone);
  const repository = await parts.repositories.choose(request.repository, zone);
  const { host, domain, reason } = await findDomain(parts, request, correlationId);
  requireState(domain);
  try {
    await refuseBusy(store.db, zone, domain);
  } catch (error) {
    // It may be this request that keeps it busy: it may have come to another controller at the same time.
    const same = await submit.earlier(repeatable);
    if (same !== undefined) return same;
    throw error;
  }

  const made = encrypted ? await keys.forNewBackup(zone, passphrase) : undefined;
  const backupId = randomUUID();
  const options = optionsFrom(settings, request.allowPlaintext);
  const submission: Submission = {
    request: repeatable,
    job: {
      kind: 'take',
      start: {
        header: undefined,
        backupId,
        domain: domain.uuid,
        repository: await parts.repositories.ref(repository),
        options,
        key: made?.key,
        cloudstack: undefined,
        passphrase: '',
        volumes: [],
        limits: limitsFrom(settings),
        storedRatio: await lastStoredRatio(store.db, { zone, uuid: domain.uuid }, options.compression !== ''),
      },
    },
    operation: {
      zone,
      host: host.name,
      hostReason: reason,
      repository: repository.name,
      backupId,
      domainName: domain.name,
      domainUuid: domain.uuid,
      correlationId,
      bandwidthLimitMibps: options.bandwidthLimitMibps,
      settings: describeSettings(settings),
    },
    anyHost: false,
    keyUse: made?.use,
    guard: async (trx) => {
      await refuseBusy(trx, zone, domain);
      if (made !== undefined && !(await keys.isCurrent(trx, zone, made.use))) throw KEY_CHANGED;
    },
  };
  try {
    return await submit.accept(submission);
  } catch (error) {
    if (error !== KEY_CHANGED) throw error;
    return await takeBackup(parts, request, correlationId);
  }
}

function optionsFrom(settings: ResolvedSettings, allowPlaintext: boolean): BackupOptions {
  return {
    compression: booleanOf(settings, 'nas.backup.compression.enabled')
      ? textOf(settings, 'nas.backup.compression.algorithm')
      : '',
    bandwidthLimitMibps: integerOf(settings, 'nas.backup.bandwidth.limit.mbps'),
    integrityCheck: booleanOf(settings, 'nas.backup.integrity.check'),
    integrityLevel: textOf(settings, 'nas.backup.integrity.level'),
    digests: textOf(settings, 'nas.backup.integrity.digests'),
    quiesce: textOf(settings, 'nas.backup.quiesce'),
    allowPlaintext,
    transport: textOf(settings, 'nas.backup.transport'),
    bandwidthEnforce: textOf(settings, 'nas.backup.bandwidth.enforce'),
    repositoryReservePercent: Number(integerOf(settings, 'nas.backup.repository.reserve.percent')),
    // Known when it begins.
    bandwidthShareBytesPerSecond: 0n,
  };
}

function passphraseMissing(zone: string): HoldfastError {
  return new HoldfastError(
    'PASSPHRASE_MISSING',
    `Encryption is on and there is no passphrase. Set nas.backup.encryption.passphrase for zone ${zone}.`,
    { metadata: { zone } },
  );
}

function requireState(domain: Domain): void {
  if (DOMAIN_STATES.includes(domain.state)) return;
  throw new HoldfastError(
    'DOMAIN_STATE',
    `Domain ${JSON.stringify(domain.name)} is ${domain.state}; only a domain that is running or shut off can be backed up.`,
    { metadata: { domain: domain.name, state: domain.state } },
  );
}

async function refuseBusy(db: Db | Trx, zone: string, domain: Domain): Promise<void> {
  const busy = await db
    .selectFrom('operations')
    .select('id')
    .where('active', '=', 1)
    .where('kind', '=', OperationKind.OPERATION_KIND_TAKE_BACKUP)
    .where('zone', '=', zone)
    .where('domain_uuid', '=', domain.uuid)
    .executeTakeFirst();
  if (busy === undefined) return;
  throw new HoldfastError(
    'DOMAIN_BUSY',
    `A backup of domain ${JSON.stringify(domain.name)} is being taken already, by operation ${busy.id}.`,
    { metadata: { operation: busy.id } },
  );
}
