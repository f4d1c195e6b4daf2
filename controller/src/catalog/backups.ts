import { HoldfastError } from '@holdfast/common/errors.ts';
import { BackupState, type Backup } from '@holdfast/proto/holdfast/v1/backup.ts';
import { Warning, type BackupResult } from '@holdfast/proto/holdfast/v1/event.ts';
import { Manifest } from '@holdfast/proto/holdfast/v1/manifest.ts';
import type { BackupTable } from '../store/schema.ts';
import type { Db, Store, Trx } from '../store/store.ts';
import { implausibilities, MAX_HISTORY } from './plausibility.ts';
import { insertedProof, insertedUnproved } from './proofs.ts';
import { transferredBytesOf } from './transferred.ts';
import { domainWays, findPage, isAfter, parsePageSize, parsePageToken } from './page.ts';

/** A backup's wrapped key and the id of the key that opens it. */
export interface WrappedKey {
  readonly keyId: string;
  readonly wrappedKey: Uint8Array;
}

/** What is known of a backup that was published. */
export interface PublishedBackup {
  readonly id: string;
  readonly zone: string;
  readonly host: string;
  readonly repository: string;
  readonly result: BackupResult;
  readonly manifest: Manifest;
  readonly key: WrappedKey | undefined;
  /** Which escrow its key is wrapped to. */
  readonly escrowId: string;
}

/** The backups that there are. */
export interface Catalog {
  /** @throws HoldfastError INVALID_REQUEST without an id, BACKUP_NOT_FOUND */
  find(id: string): Promise<{ readonly backup: Backup; readonly key: WrappedKey | undefined }>;
  /** Newest first, without manifests. @throws HoldfastError INVALID_REQUEST for a bad page size or token */
  list(query: {
    readonly zone: string;
    readonly domain: string;
    readonly pageSize: number;
    readonly pageToken: string;
    readonly damaged: boolean;
  }): Promise<{ readonly backups: Backup[]; readonly nextPageToken: string }>;
}

/**
 * Bytes stored for each byte of data in the domain's last backup that was compressed as this one will be, or not; 0 when
 * there is none, or it had no data.
 */
export async function lastStoredRatio(
  db: Db,
  domain: { readonly zone: string; readonly uuid: string },
  compressed: boolean,
): Promise<number> {
  const last = await db
    .selectFrom('backups')
    .select(['data_bytes', 'stored_bytes'])
    .where('zone', '=', domain.zone)
    .where('domain_uuid', '=', domain.uuid)
    .where('compressed', '=', compressed ? 1 : 0)
    .orderBy('snapshot_time', 'desc')
    .executeTakeFirst();
  return last === undefined || last.data_bytes === 0 ? 0 : last.stored_bytes / last.data_bytes;
}

/** What a list shows; manifests are long. */
const LISTED = [
  ...(['id', 'zone', 'host', 'repository', 'path', 'domain_uuid', 'domain_name', 'snapshot_time'] as const),
  ...(['virtual_size_bytes', 'data_bytes', 'stored_bytes', 'transferred_bytes'] as const),
  ...(['compressed', 'encrypted', 'quiesced', 'manifest_sha256'] as const),
  ...(['verify_time', 'verify_level', 'verify_intact', 'verify_text', 'warnings'] as const),
  ...(['proof_time', 'proof_level', 'proof_operation', 'proof_sample_percent'] as const),
  ...(['damage_time', 'damage_level', 'damage_operation', 'damage_text'] as const),
] as const;

export function createCatalog({ store }: { store: Store }): Catalog {
  const { db } = store;
  return {
    find: async (id) => {
      if (id === '') throw new HoldfastError('INVALID_REQUEST', 'The backup is missing.');
      const row = await db.selectFrom('backups').selectAll().where('id', '=', id).executeTakeFirst();
      if (row === undefined) throw backupNotFound(id);
      const key =
        row.key_id === null || row.wrapped_key === null
          ? undefined
          : { keyId: row.key_id, wrappedKey: row.wrapped_key };
      return { backup: { ...toBackup(row), manifest: Manifest.decode(row.manifest_message) }, key };
    },
    list: async ({ zone, domain, pageSize, pageToken, damaged }) => {
      const size = parsePageSize(pageSize);
      const end = parsePageToken(pageToken);
      const { page, nextPageToken } = await findPage(
        domainWays(domain),
        (where) => {
          let query = db.selectFrom('backups').select(LISTED);
          if (zone !== '') query = query.where('zone', '=', zone);
          if (where !== undefined) query = query.where(where[0], '=', where[1]);
          if (damaged) query = query.where('damage_time', 'is not', null);
          if (end !== undefined) query = query.where(isAfter('snapshot_time', end));
          return query
            .orderBy('snapshot_time', 'desc')
            .orderBy('id', 'desc')
            .limit(size + 1)
            .execute();
        },
        (row) => ({ time: row.snapshot_time, id: row.id }),
        size,
      );
      return { backups: page.map(toBackup), nextPageToken };
    },
  };
}

export function backupNotFound(id: string): HoldfastError {
  return new HoldfastError('BACKUP_NOT_FOUND', `There is no backup ${JSON.stringify(id)}.`, {
    metadata: { backup: id },
  });
}

/**
 * Enters a backup, in the transaction that ends its operation.
 *
 * @param tolerancePercent nas.backup.plausibility.tolerance.percent
 * @returns what is unusual about it
 */
export async function insertBackup(
  trx: Trx,
  published: PublishedBackup,
  now: Date,
  tolerancePercent: number,
): Promise<readonly Warning[]> {
  const { manifest, result, key } = published;
  const sum = (values: readonly bigint[]): number =>
    Number(values.reduce((total, value) => total + value, 0n));
  const snapshotTime = (manifest.snapshotTime ?? now).toISOString();
  const columns = {
    zone: published.zone,
    domain_uuid: manifest.domainUuid,
    snapshot_time: snapshotTime,
    data_bytes: sum(manifest.disks.map((disk) => disk.dataBytes)),
    stored_bytes: sum(manifest.disks.map((disk) => disk.storedBytes)),
    compressed: manifest.disks.some((disk) => disk.compression !== '') ? 1 : 0,
  };
  const warnings = tolerancePercent === 0 ? [] : await unusual(trx, columns, tolerancePercent);
  await trx
    .insertInto('backups')
    .values({
      ...columns,
      ...insertedProof(manifest, snapshotTime),
      ...insertedUnproved(snapshotTime, now),
      id: published.id,
      host: published.host,
      repository: published.repository,
      path: result.path,
      domain_name: manifest.domainName,
      warnings: JSON.stringify(warnings.map((warning) => Warning.toJSON(warning))),
      virtual_size_bytes: sum(manifest.disks.map((disk) => disk.virtualSizeBytes)),
      transferred_bytes: Number(transferredBytesOf(manifest)),
      encrypted: manifest.encryption === undefined ? 0 : 1,
      quiesced: manifest.consistency?.quiesced === true ? 1 : 0,
      key_id: key?.keyId ?? null,
      wrapped_key: key?.wrappedKey ?? null,
      escrow_id: key === undefined ? '' : published.escrowId,
      manifest_message: Manifest.encode(manifest).finish(),
      manifest_sha256: result.manifestSha256,
    })
    .execute();
  return warnings;
}

/** What is unusual about a backup after those of the same domain and kind before it. */
async function unusual(
  trx: Trx,
  backup: Pick<
    BackupTable,
    'zone' | 'domain_uuid' | 'snapshot_time' | 'data_bytes' | 'stored_bytes' | 'compressed'
  >,
  tolerancePercent: number,
): Promise<readonly Warning[]> {
  const before = await trx
    .selectFrom('backups')
    .select(['data_bytes', 'stored_bytes'])
    .where('domain_uuid', '=', backup.domain_uuid)
    .where('zone', '=', backup.zone)
    .where('compressed', '=', backup.compressed)
    .where('snapshot_time', '<', backup.snapshot_time)
    .orderBy('snapshot_time', 'desc')
    .limit(MAX_HISTORY)
    .execute();
  const [next, ...history] = [backup, ...before].map((row) => ({
    dataBytes: row.data_bytes,
    storedBytes: row.stored_bytes,
  }));
  if (next === undefined) return [];
  const options = { compressed: backup.compressed === 1, tolerancePercent };
  return implausibilities(history.toReversed(), next, options);
}

/** Removes a backup, in the transaction that ends its deletion. */
export async function removeBackup(trx: Trx, backupId: string): Promise<void> {
  await trx.deleteFrom('backups').where('id', '=', backupId).execute();
}

function toBackup(row: Pick<BackupTable, (typeof LISTED)[number]>): Backup {
  return {
    id: row.id,
    zone: row.zone,
    host: row.host,
    repository: row.repository,
    path: row.path,
    domainUuid: row.domain_uuid,
    domainName: row.domain_name,
    snapshotTime: new Date(row.snapshot_time),
    virtualSizeBytes: BigInt(row.virtual_size_bytes),
    dataBytes: BigInt(row.data_bytes),
    storedBytes: BigInt(row.stored_bytes),
    compressed: row.compressed === 1,
    encrypted: row.encrypted === 1,
    quiesced: row.quiesced === 1,
    lastVerification:
      row.verify_time === null
        ? undefined
        : {
            time: new Date(row.verify_time),
            level: row.verify_level ?? '',
            intact: row.verify_intact === 1,
            message: row.verify_text ?? '',
          },
    manifest: undefined,
    manifestSha256: row.manifest_sha256,
    transferredBytes: BigInt(row.transferred_bytes),
    state: row.damage_time === null ? BackupState.BACKUP_STATE_AVAILABLE : BackupState.BACKUP_STATE_DAMAGED,
    lastProof:
      row.proof_time === null
        ? undefined
        : {
            time: new Date(row.proof_time),
            level: row.proof_level ?? '',
            operationId: row.proof_operation ?? '',
            samplePercent: row.proof_sample_percent ?? 100,
          },
    damage:
      row.damage_time === null
        ? undefined
        : {
            time: new Date(row.damage_time),
            level: row.damage_level ?? '',
            operationId: row.damage_operation ?? '',
            message: row.damage_text ?? '',
          },
    warnings: (JSON.parse(row.warnings) as unknown[]).map((warning) => Warning.fromJSON(warning)),
  };
}
