import { HoldfastError } from '@holdfast/common/errors.ts';
import type { Backup } from '@holdfast/proto/holdfast/v1/backup.ts';
import type { BackupResult } from '@holdfast/proto/holdfast/v1/event.ts';
import { Manifest } from '@holdfast/proto/holdfast/v1/manifest.ts';
import type { BackupTable } from '../store/schema.ts';
import type { Db, Store, Trx } from '../store/store.ts';
import { transferredBytesOf } from './transferred.ts';
import { findPage, isAfter, parsePageSize, parsePageToken } from './page.ts';

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

/** What the last verification found. */
export interface Verification {
  readonly time: Date;
  readonly level: string;
  readonly intact: boolean;
  readonly message: string;
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
  ...(['verify_time', 'verify_level', 'verify_intact', 'verify_text'] as const),
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
    list: async ({ zone, domain, pageSize, pageToken }) => {
      const size = parsePageSize(pageSize);
      const end = parsePageToken(pageToken);
      const { page, nextPageToken } = await findPage(
        domain,
        (where) => {
          let query = db.selectFrom('backups').select(LISTED);
          if (zone !== '') query = query.where('zone', '=', zone);
          if (where !== undefined) query = query.where(where[0], '=', where[1]);
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

/** Enters a backup, in the transaction that ends its operation. */
export async function insertBackup(trx: Trx, published: PublishedBackup, now: Date): Promise<void> {
  const { manifest, result, key } = published;
  const sum = (values: readonly bigint[]): number =>
    Number(values.reduce((total, value) => total + value, 0n));
  await trx
    .insertInto('backups')
    .values({
      id: published.id,
      zone: published.zone,
      host: published.host,
      repository: published.repository,
      path: result.path,
      domain_uuid: manifest.domainUuid,
      domain_name: manifest.domainName,
      snapshot_time: (manifest.snapshotTime ?? now).toISOString(),
      virtual_size_bytes: sum(manifest.disks.map((disk) => disk.virtualSizeBytes)),
      data_bytes: sum(manifest.disks.map((disk) => disk.dataBytes)),
      stored_bytes: sum(manifest.disks.map((disk) => disk.storedBytes)),
      transferred_bytes: Number(transferredBytesOf(manifest)),
      compressed: manifest.disks.some((disk) => disk.compression !== '') ? 1 : 0,
      encrypted: manifest.encryption === undefined ? 0 : 1,
      quiesced: manifest.consistency?.quiesced === true ? 1 : 0,
      key_id: key?.keyId ?? null,
      wrapped_key: key?.wrappedKey ?? null,
      escrow_id: key === undefined ? '' : published.escrowId,
      manifest_message: Manifest.encode(manifest).finish(),
      manifest_sha256: result.manifestSha256,
    })
    .execute();
}

/** Notes what a verification found, in the transaction that ends its operation. */
export async function noteVerification(trx: Trx, backupId: string, found: Verification): Promise<void> {
  await trx
    .updateTable('backups')
    .set({
      verify_time: found.time.toISOString(),
      verify_level: found.level,
      verify_intact: found.intact ? 1 : 0,
      verify_text: found.message,
    })
    .where('id', '=', backupId)
    .execute();
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
  };
}
