import { sql, type RawBuilder } from 'kysely';
import { HoldfastError } from '@holdfast/common/errors.ts';
import { Operation } from '@holdfast/proto/holdfast/v1/operation.ts';
import { Manifest } from '@holdfast/proto/holdfast/v1/manifest.ts';
import { transferredBytesOf } from '../catalog/transferred.ts';
import type { Database, Db } from './store.ts';

/** The types of columns that each database has its own words for. Text sorts by its bytes in both. */
export interface ColumnTypes {
  readonly text: 'text' | RawBuilder<unknown>;
  readonly bytes: 'blob' | 'bytea';
}

export const COLUMN_TYPES: Readonly<Record<Database['kind'], ColumnTypes>> = {
  sqlite: { text: 'text', bytes: 'blob' },
  postgres: { text: sql`text collate "C"`, bytes: 'bytea' },
};

/** The steps from an empty database to the present schema. Only ever appended to; a step that was released is final. */
export const migrations: readonly ((db: Db, types: ColumnTypes) => Promise<void>)[] = [
  firstTables,
  mountedRepositories,
  transferredBytes,
  settingChanges,
  operationFilters,
  leaders,
  backupsByDomain,
  admission,
  unknownKeys,
  keyStates,
  proofs,
  listIndices,
  scrubs,
  statisticsIndices,
];

/** Whether the schema is older than this version's. Makes the table that says so. */
export async function isOutdated({ db }: Database): Promise<boolean> {
  return (await schemaVersion(db)) < migrations.length;
}

/**
 * Brings the schema up to date, step by step, each in a transaction.
 *
 * @throws HoldfastError STATE_UNUSABLE when a newer version of Holdfast wrote the database.
 */
export async function migrate({ db, kind }: Database): Promise<void> {
  const version = await schemaVersion(db);
  if (version > migrations.length) {
    throw new HoldfastError(
      'STATE_UNUSABLE',
      `The database has schema version ${version}, and this version of Holdfast knows only up to ${migrations.length}. ` +
        'Start the newer version that wrote it; there is no way back.',
    );
  }
  for (const [index, step] of migrations.entries()) {
    if (index < version) continue;
    await db.transaction().execute(async (trx) => {
      await step(trx, COLUMN_TYPES[kind]);
      await sql`delete from schema_version`.execute(trx);
      await sql`insert into schema_version (version) values (${index + 1})`.execute(trx);
    });
  }
}

async function schemaVersion(db: Db): Promise<number> {
  await sql`create table if not exists schema_version (version integer not null)`.execute(db);
  const found = await sql<{ version: number }>`select version from schema_version`.execute(db);
  return found.rows[0]?.version ?? 0;
}

async function firstTables({ schema }: Db, { text, bytes }: ColumnTypes): Promise<void> {
  await schema
    .createTable('controller_state')
    .addColumn('id', 'integer', (column) => column.primaryKey())
    .addColumn('fencing_epoch', 'bigint', (column) => column.notNull())
    .addColumn('master_key_check_sealed', bytes, (column) => column.notNull())
    .execute();
  await schema
    .createTable('zones')
    .addColumn('name', text, (column) => column.primaryKey())
    .addColumn('create_time', text, (column) => column.notNull())
    .execute();
  await schema
    .createTable('settings')
    .addColumn('zone', text, (column) => column.notNull())
    .addColumn('key', text, (column) => column.notNull())
    .addColumn('value', text)
    .addColumn('value_sealed', bytes)
    .addPrimaryKeyConstraint('settings_pk', ['zone', 'key'])
    .execute();
  await schema
    .createTable('hosts')
    .addColumn('name', text, (column) => column.primaryKey())
    .addColumn('zone', text, (column) => column.notNull().references('zones.name'))
    .addColumn('address', text, (column) => column.notNull())
    .addColumn('create_time', text, (column) => column.notNull())
    .execute();
  await schema
    .createTable('repositories')
    .addColumn('name', text, (column) => column.primaryKey())
    .addColumn('zone', text, (column) => column.notNull().references('zones.name'))
    .addColumn('type', 'integer', (column) => column.notNull())
    .addColumn('path', text, (column) => column.notNull())
    .addColumn('create_time', text, (column) => column.notNull())
    .execute();
  await schema
    .createTable('keys')
    .addColumn('id', text, (column) => column.primaryKey())
    .addColumn('zone', text, (column) => column.notNull().references('zones.name'))
    .addColumn('origin', text, (column) => column.notNull())
    .addColumn('recipient', text, (column) => column.notNull())
    .addColumn('identity_sealed', bytes, (column) => column.notNull())
    .addColumn('passphrase_sealed', bytes, (column) => column.notNull())
    .addColumn('key_file', bytes)
    .addColumn('create_time', text, (column) => column.notNull())
    .execute();
  await schema
    .createTable('backups')
    .addColumn('id', text, (column) => column.primaryKey())
    .addColumn('zone', text, (column) => column.notNull().references('zones.name'))
    .addColumn('host', text, (column) => column.notNull())
    .addColumn('repository', text, (column) => column.notNull().references('repositories.name'))
    .addColumn('path', text, (column) => column.notNull())
    .addColumn('domain_uuid', text, (column) => column.notNull())
    .addColumn('domain_name', text, (column) => column.notNull())
    .addColumn('snapshot_time', text, (column) => column.notNull())
    .addColumn('virtual_size_bytes', 'bigint', (column) => column.notNull())
    .addColumn('data_bytes', 'bigint', (column) => column.notNull())
    .addColumn('stored_bytes', 'bigint', (column) => column.notNull())
    .addColumn('compressed', 'integer', (column) => column.notNull())
    .addColumn('encrypted', 'integer', (column) => column.notNull())
    .addColumn('quiesced', 'integer', (column) => column.notNull())
    .addColumn('key_id', text, (column) => column.references('keys.id'))
    .addColumn('wrapped_key', bytes)
    .addColumn('manifest_message', bytes, (column) => column.notNull())
    .addColumn('manifest_sha256', text, (column) => column.notNull())
    .addColumn('verify_time', text)
    .addColumn('verify_level', text)
    .addColumn('verify_intact', 'integer')
    .addColumn('verify_text', text)
    .execute();
  await schema.createIndex('backups_by_time').on('backups').columns(['snapshot_time', 'id']).execute();
  await schema
    .createIndex('backups_by_zone')
    .on('backups')
    .columns(['zone', 'snapshot_time', 'id'])
    .execute();
  await schema.createIndex('backups_by_key').on('backups').column('key_id').execute();
  await schema
    .createTable('operations')
    .addColumn('id', text, (column) => column.primaryKey())
    .addColumn('kind', 'integer', (column) => column.notNull())
    .addColumn('state', 'integer', (column) => column.notNull())
    .addColumn('active', 'integer', (column) => column.notNull())
    .addColumn('zone', text, (column) => column.notNull().references('zones.name'))
    .addColumn('host', text, (column) => column.notNull())
    .addColumn('repository', text, (column) => column.notNull())
    .addColumn('backup_id', text, (column) => column.notNull())
    .addColumn('domain_uuid', text, (column) => column.notNull())
    .addColumn('create_time', text, (column) => column.notNull())
    .addColumn('request_id', text, (column) => column.unique())
    .addColumn('request_digest', text, (column) => column.notNull())
    .addColumn('job_sealed', bytes)
    .addColumn('start_sent', 'integer', (column) => column.notNull())
    .addColumn('accepted', 'integer', (column) => column.notNull())
    .addColumn('cancel_wanted', 'integer', (column) => column.notNull())
    .addColumn('last_sequence', 'bigint', (column) => column.notNull())
    .addColumn('agent_sequence', 'bigint', (column) => column.notNull())
    .addColumn('operation_message', bytes, (column) => column.notNull())
    .execute();
  await schema.createIndex('operations_by_time').on('operations').columns(['create_time', 'id']).execute();
  await schema.createIndex('operations_active').on('operations').columns(['active', 'zone']).execute();
  await schema
    .createTable('operation_events')
    .addColumn('operation_id', text, (column) => column.notNull().references('operations.id'))
    .addColumn('sequence', 'bigint', (column) => column.notNull())
    .addColumn('event_message', bytes, (column) => column.notNull())
    .addPrimaryKeyConstraint('operation_events_pk', ['operation_id', 'sequence'])
    .execute();
}

async function mountedRepositories({ schema }: Db, { text, bytes }: ColumnTypes): Promise<void> {
  for (const column of ['address', 'repository_id']) {
    await schema
      .alterTable('repositories')
      .addColumn(column, text, (definition) => definition.notNull().defaultTo(''))
      .execute();
  }
  await schema
    .alterTable('repositories')
    .addColumn('mount_options', text, (definition) => definition.notNull().defaultTo('[]'))
    .execute();
  await schema.alterTable('repositories').addColumn('credentials_sealed', bytes).execute();
}

/** What was transferred for the backups that are there is in their manifests. */
export async function transferredBytes(db: Db): Promise<void> {
  await db.schema
    .alterTable('backups')
    .addColumn('transferred_bytes', 'bigint', (column) => column.notNull().defaultTo(0))
    .execute();
  const rows = await db.selectFrom('backups').select(['id', 'manifest_message']).execute();
  for (const row of rows) {
    const bytes = Number(transferredBytesOf(Manifest.decode(row.manifest_message)));
    await db.updateTable('backups').set({ transferred_bytes: bytes }).where('id', '=', row.id).execute();
  }
  await db.schema
    .createIndex('backups_by_domain')
    .on('backups')
    .columns(['zone', 'domain_uuid', 'snapshot_time'])
    .execute();
  await db.schema.createIndex('backups_by_repository').on('backups').column('repository').execute();
}

async function settingChanges({ schema }: Db, { text }: ColumnTypes): Promise<void> {
  await schema
    .alterTable('settings')
    .addColumn('change_time', text, (column) => column.notNull().defaultTo(''))
    .execute();
  await schema
    .createTable('setting_changes')
    .addColumn('id', text, (column) => column.primaryKey())
    .addColumn('time', text, (column) => column.notNull())
    .addColumn('zone', text, (column) => column.notNull())
    .addColumn('key', text, (column) => column.notNull())
    .addColumn('old_value', text, (column) => column.notNull())
    .addColumn('new_value', text, (column) => column.notNull())
    .addColumn('unset', 'integer', (column) => column.notNull())
    .addColumn('caller', text, (column) => column.notNull())
    .addColumn('correlation_id', text, (column) => column.notNull())
    .execute();
  await schema.createIndex('setting_changes_by_time').on('setting_changes').columns(['time', 'id']).execute();
  await schema
    .createIndex('setting_changes_by_key')
    .on('setting_changes')
    .columns(['zone', 'key', 'time', 'id'])
    .execute();
}

/** The names of domains are in the operations' messages. */
export async function operationFilters(db: Db, { text }: ColumnTypes): Promise<void> {
  const { schema } = db;
  await schema
    .alterTable('operations')
    .addColumn('domain_name', text, (column) => column.notNull().defaultTo(''))
    .execute();
  const rows = await db.selectFrom('operations').select(['id', 'operation_message']).execute();
  for (const { id, operation_message: message } of rows) {
    const { domainName } = Operation.decode(message);
    await db.updateTable('operations').set({ domain_name: domainName }).where('id', '=', id).execute();
  }
  for (const column of ['zone', 'host', 'domain_uuid', 'domain_name', 'state']) {
    await schema
      .createIndex(`operations_by_${column}`)
      .on('operations')
      .columns([column, 'create_time', 'id'])
      .execute();
  }
}

/** What was led before has no leader, and its agents know the number of the start that told them. */
async function leaders(db: Db, { text }: ColumnTypes): Promise<void> {
  const { schema } = db;
  await schema
    .createTable('controllers')
    .addColumn('id', text, (column) => column.primaryKey())
    .addColumn('lease_until_ms', 'bigint', (column) => column.notNull())
    .execute();
  await db.insertInto('controllers').values({ id: '', lease_until_ms: 0 }).execute();
  await schema
    .alterTable('operations')
    .addColumn('leader', text, (column) => column.notNull().defaultTo(''))
    .execute();
  await schema
    .alterTable('operations')
    .addColumn('fencing_epoch', 'bigint', (column) => column.notNull().defaultTo(0))
    .execute();
  await sql`update operations set fencing_epoch =
    coalesce((select fencing_epoch from controller_state), 0)`.execute(db);
  await schema.alterTable('controller_state').dropColumn('fencing_epoch').execute();
}

/** A page of a domain's backups, whichever way the domain is named, is read from an index in its order. */
async function backupsByDomain({ schema }: Db): Promise<void> {
  for (const column of ['domain_name', 'domain_uuid']) {
    await schema
      .createIndex(`backups_by_${column}`)
      .on('backups')
      .columns([column, 'snapshot_time', 'id'])
      .execute();
  }
}

async function admission({ schema }: Db, { text }: ColumnTypes): Promise<void> {
  await schema
    .alterTable('hosts')
    .addColumn('labels', text, (column) => column.notNull().defaultTo('{}'))
    .execute();
  await schema
    .alterTable('hosts')
    .addColumn('drained', 'integer', (column) => column.notNull().defaultTo(0))
    .execute();
  for (const name of ['admitted', 'any_host']) {
    await schema
      .alterTable('operations')
      .addColumn(name, 'integer', (column) => column.notNull().defaultTo(0))
      .execute();
  }
  await schema
    .createTable('bandwidth_shares')
    .addColumn('operation_id', text, (column) => column.primaryKey().references('operations.id'))
    .addColumn('granted', 'bigint', (column) => column.notNull())
    .addColumn('wanted', 'bigint', (column) => column.notNull())
    .addColumn('ceiling', 'bigint', (column) => column.notNull())
    .execute();
}

/** A backup that was found in a repository may be wrapped to a key that is not known here, or not yet. */
async function unknownKeys(db: Db, { text }: ColumnTypes): Promise<void> {
  const { schema } = db;
  await schema.dropIndex('backups_by_key').execute();
  await schema.alterTable('backups').renameColumn('key_id', 'known_key_id').execute();
  await schema.alterTable('backups').addColumn('key_id', text).execute();
  await sql`update backups set key_id = known_key_id`.execute(db);
  await schema.alterTable('backups').dropColumn('known_key_id').execute();
  await schema.createIndex('backups_by_key').on('backups').column('key_id').execute();
}

/** Keys are rotated and escrowed; which files of them have still to be written is remembered. */
async function keyStates({ schema }: Db, { text }: ColumnTypes): Promise<void> {
  await schema
    .alterTable('keys')
    .addColumn('state', text, (column) => column.notNull().defaultTo('active'))
    .execute();
  await schema
    .alterTable('keys')
    .addColumn('generation', 'integer', (column) => column.notNull().defaultTo(1))
    .execute();
  await schema.alterTable('keys').addColumn('retire_time', text).execute();
  await schema
    .alterTable('backups')
    .addColumn('escrow_id', text, (column) => column.notNull().defaultTo(''))
    .execute();
  for (const name of ['key_id', 'key_escrow_id']) {
    await schema
      .alterTable('operations')
      .addColumn(name, text, (column) => column.notNull().defaultTo(''))
      .execute();
  }
  await schema
    .alterTable('operations')
    .addColumn('key_generation', 'integer', (column) => column.notNull().defaultTo(0))
    .execute();
  await schema
    .createTable('key_files')
    .addColumn('key_id', text, (column) => column.notNull().references('keys.id'))
    .addColumn('repository', text, (column) => column.notNull().references('repositories.name'))
    .addColumn('message', text, (column) => column.notNull())
    .addPrimaryKeyConstraint('key_files_pk', ['key_id', 'repository'])
    .execute();
}

/** What was found by the last verification is a proof or a damage. */
async function proofs(db: Db, { text }: ColumnTypes): Promise<void> {
  const { schema } = db;
  const levels = ['metadata', 'stored', 'content'].map((level) => `${level}_proof_time`);
  for (const name of ['proof_time', 'proof_level', 'proof_operation', ...levels])
    await schema.alterTable('backups').addColumn(name, text).execute();
  await schema.alterTable('backups').addColumn('proof_sample_percent', 'integer').execute();
  for (const name of ['damage_time', 'damage_level', 'damage_operation', 'damage_text'])
    await schema.alterTable('backups').addColumn(name, text).execute();
  await schema
    .alterTable('backups')
    .addColumn('warnings', text, (column) => column.notNull().defaultTo('[]'))
    .execute();
  await sql`update backups set proof_time = verify_time, metadata_proof_time = verify_time, proof_level = 'metadata',
    proof_operation = '', proof_sample_percent = 100 where verify_intact = 1`.execute(db);
  await sql`update backups set damage_time = verify_time, damage_level = 'metadata', damage_operation = '',
    damage_text = verify_text where verify_intact = 0`.execute(db);
}

/**
 * Of each filter of the lists, and of what is looked for among operations that have not ended, there is an index: a page costs
 * the same however much there is besides.
 */
async function listIndices({ schema }: Db): Promise<void> {
  await schema.dropIndex('operations_active').execute();
  const indices: Readonly<Record<string, string[]>> = {
    operations_active: ['active', 'zone', 'create_time', 'id'],
    operations_active_by_time: ['active', 'create_time', 'id'],
    operations_active_by_domain: ['active', 'domain_uuid', 'zone'],
    operations_active_by_backup: ['active', 'backup_id'],
    operations_by_zone_and_state: ['zone', 'state', 'create_time', 'id'],
    operations_by_host_and_state: ['host', 'state', 'create_time', 'id'],
  };
  for (const [name, columns] of Object.entries(indices))
    await schema.createIndex(name).on('operations').columns(columns).execute();
  const damaged: Readonly<Record<string, string[]>> = {
    backups_damaged: ['snapshot_time', 'id'],
    backups_damaged_by_zone: ['zone', 'snapshot_time', 'id'],
  };
  for (const [name, columns] of Object.entries(damaged)) {
    const index = schema.createIndex(name).on('backups').columns(columns);
    await index.where('damage_time', 'is not', null).execute();
  }
}

/** The backup whose proof at a level is the oldest is read from an index. */
async function scrubs(db: Db, { text }: ColumnTypes): Promise<void> {
  const { schema } = db;
  for (const level of ['metadata', 'stored', 'content']) {
    const since = `${level}_unproved_since`;
    await schema
      .alterTable('backups')
      .addColumn(since, text, (column) => column.notNull().defaultTo(''))
      .execute();
    await sql`update backups set ${sql.ref(since)} = coalesce(${sql.ref(`${level}_proof_time`)}, snapshot_time)`.execute(
      db,
    );
    await schema.alterTable('backups').dropColumn(`${level}_proof_time`).execute();
    await schema
      .createIndex(`backups_by_${since}`)
      .on('backups')
      .columns(['repository', since, 'id'])
      .where('damage_time', 'is', null)
      .execute();
  }
  await schema.alterTable('backups').addColumn('scrub_postponed_until', text).execute();
  await schema
    .alterTable('repositories')
    .addColumn('scrub_failures', 'integer', (column) => column.notNull().defaultTo(0))
    .execute();
  await schema.alterTable('repositories').addColumn('scrub_rest_until', text).execute();
  await schema
    .alterTable('repositories')
    .addColumn('scrub_message', text, (column) => column.notNull().defaultTo(''))
    .execute();
  await schema
    .alterTable('operations')
    .addColumn('origin', 'integer', (column) => column.notNull().defaultTo(0))
    .execute();
}

/** What statistics add up is read from the index alone, without the manifests that lie beside it in the table. */
async function statisticsIndices({ schema }: Db): Promise<void> {
  const added = ['virtual_size_bytes', 'data_bytes', 'transferred_bytes', 'stored_bytes'];
  const indices: Readonly<Record<string, string[]>> = {
    backups_by_domain: ['zone', 'domain_uuid', 'snapshot_time', ...added],
    backups_by_repository: ['repository', 'snapshot_time', ...added],
  };
  for (const [name, columns] of Object.entries(indices)) {
    await schema.dropIndex(name).execute();
    await schema.createIndex(name).on('backups').columns(columns).execute();
  }
}
