import type { SelectQueryBuilder } from 'kysely';
import { HoldfastError } from '@holdfast/common/errors.ts';
import type { KeyTable, Tables } from '../store/schema.ts';
import type { Db, Store, Trx } from '../store/store.ts';
import { secretOf } from '../zones/resolve.ts';
import type { Settings } from '../zones/settings.ts';
import { escrowOf, fittingEscrows } from './escrow.ts';
import { isEqual, openColumn, sealColumn } from './sealed.ts';

/**
 * Notes in which repositories of a zone files of its keys are not as its settings want them: where its passphrase is
 * another one, and where backups are not wrapped to its escrow recipients.
 *
 * @returns whether anything was noted
 */
export async function noteKeyWork(
  parts: { readonly store: Store; readonly settings: Pick<Settings, 'resolveIn'> },
  trx: Trx,
  zone: string,
): Promise<boolean> {
  const settings = await parts.settings.resolveIn(trx, zone);
  const passphrase = secretOf(settings, 'nas.backup.encryption.passphrase').value;
  let noted = false;
  for (const row of await usableKeys(trx, zone)) {
    // Without a passphrase the key stays under the last one: what is encrypted must be opened by something.
    if (row.origin !== 'zone' || passphrase.reveal() === '') continue;
    if (isEqual(openColumn(parts.store, row, 'passphrase'), passphrase)) continue;
    await trx
      .updateTable('keys')
      .set({
        passphrase_sealed: sealColumn(parts.store, row.id, 'passphrase', passphrase),
        key_file: null,
        generation: row.generation + 1,
      })
      .where('id', '=', row.id)
      .execute();
    for (const repository of await repositoriesOf(trx, zone)) await note(trx, row.id, repository);
    noted = true;
  }
  const misfits = await trx
    .selectFrom('backups')
    .innerJoin('keys', 'keys.id', 'backups.key_id')
    .select(['keys.id as key', 'backups.repository'])
    .distinct()
    .where('backups.zone', '=', zone)
    .where('keys.state', 'in', ['active', 'retiring'])
    .where('backups.escrow_id', 'not in', fittingEscrows(escrowOf(settings).id))
    .execute();
  // Backups that are being taken are wrapped as they were begun.
  const running = await trx
    .selectFrom('operations')
    .select(['key_id as key', 'repository'])
    .distinct()
    .where('active', '=', 1)
    .where('zone', '=', zone)
    .where('key_id', '!=', '')
    .where('key_escrow_id', '!=', escrowOf(settings).id)
    .execute();
  for (const { key, repository } of [...misfits, ...running]) await note(trx, key, repository);
  return noted || misfits.length > 0 || running.length > 0;
}

/** Notes that a key is to disappear from all repositories of its zone. */
export async function noteRetirement(trx: Trx, zone: string, keyId: string): Promise<void> {
  for (const repository of await repositoriesOf(trx, zone)) await note(trx, keyId, repository);
}

/** The keys of a zone whose secrets are here. */
export async function usableKeys(db: Db | Trx, zone: string): Promise<KeyTable[]> {
  return await db
    .selectFrom('keys')
    .selectAll()
    .where('zone', '=', zone)
    .where('state', 'in', ['active', 'retiring'])
    .execute();
}

/** A repository in which files of a key are not yet as they should be. */
export interface KeyWork {
  readonly keyId: string;
  readonly repository: string;
  readonly message: string;
}

/** What is left to do for the keys of a zone. */
export async function keyWork(db: Db | Trx, zone: string): Promise<KeyWork[]> {
  const rows = await db
    .selectFrom('key_files')
    .innerJoin('keys', 'keys.id', 'key_files.key_id')
    .select(['key_files.key_id', 'key_files.repository', 'key_files.message'])
    .where('keys.zone', '=', zone)
    .orderBy('key_files.repository')
    .execute();
  return rows.map((row) => ({ keyId: row.key_id, repository: row.repository, message: row.message }));
}

/** How many backups of a zone are wrapped otherwise than they should be. */
export async function backupsLeft(db: Db | Trx, zone: string, escrowId: string): Promise<number> {
  const { left } = await misfitBackups(db, escrowId)
    .where('backups.zone', '=', zone)
    .select((of) => of.fn.countAll<number | bigint>().as('left'))
    .executeTakeFirstOrThrow();
  return Number(left);
}

/** The backups that are wrapped to a key that retires, or to other escrow recipients than the zone's. */
export function misfitBackups(
  db: Db | Trx,
  escrowId: string,
): SelectQueryBuilder<Tables, 'backups' | 'keys', object> {
  return db
    .selectFrom('backups')
    .innerJoin('keys', 'keys.id', 'backups.key_id')
    .where((where) =>
      where.or([
        where('keys.state', '=', 'retiring'),
        where.and([
          where('keys.state', '=', 'active'),
          where('backups.escrow_id', 'not in', fittingEscrows(escrowId)),
        ]),
      ]),
    );
}

/**
 * Makes sure that an update of a zone's key files has left nothing undone.
 *
 * @throws HoldfastError IN_USE when something was added meanwhile
 */
export async function requireKeysDone(trx: Trx, zone: string): Promise<void> {
  const [work] = await keyWork(trx, zone);
  if (work === undefined) return;
  throw new HoldfastError('IN_USE', `Files of key ${work.keyId} are still to be written.`);
}

/**
 * A running backup that began before the keys of its zone were changed, and will write files as they were then.
 *
 * @param escrowId the present one of the zone
 */
export async function backupOfBefore(
  db: Db | Trx,
  { keyId, repository }: Pick<KeyWork, 'keyId' | 'repository'>,
  escrowId: string,
): Promise<string | undefined> {
  const found = await db
    .selectFrom('operations')
    .innerJoin('keys', 'keys.id', 'operations.key_id')
    .select('operations.id')
    .where('operations.active', '=', 1)
    .where('operations.key_id', '=', keyId)
    .where('operations.repository', '=', repository)
    .where((where) =>
      where.or([
        where('keys.state', '!=', 'active'),
        where('operations.key_generation', '!=', where.ref('keys.generation')),
        where('operations.key_escrow_id', '!=', escrowId),
      ]),
    )
    .executeTakeFirst();
  return found?.id;
}

async function repositoriesOf(trx: Trx, zone: string): Promise<readonly string[]> {
  const rows = await trx.selectFrom('repositories').select('name').where('zone', '=', zone).execute();
  return rows.map(({ name }) => name);
}

async function note(trx: Trx, keyId: string, repository: string): Promise<void> {
  await trx
    .insertInto('key_files')
    .values({ key_id: keyId, repository, message: '' })
    .onConflict((conflict) => conflict.doNothing())
    .execute();
}
