import type { Store, Trx } from '../store/store.ts';
import { NO_SECRET } from './sealed.ts';

/**
 * Erases the secrets of those keys of a zone that are to retire and of which nothing is left: no file in a repository, no
 * backup, and none that is being taken.
 */
export async function retireKeys(store: Store, zone: string, now: Date): Promise<void> {
  await store.transact(async (trx) => {
    for (const keyId of await spentKeys(trx, zone)) {
      await trx
        .updateTable('keys')
        .set({
          state: 'retired',
          retire_time: now.toISOString(),
          identity_sealed: NO_SECRET,
          passphrase_sealed: NO_SECRET,
          key_file: null,
        })
        .where('id', '=', keyId)
        .execute();
    }
  });
  await store.scrub();
}

async function spentKeys(trx: Trx, zone: string): Promise<readonly string[]> {
  const rows = await trx
    .selectFrom('keys')
    .select('id')
    .where('zone', '=', zone)
    .where('state', '=', 'retiring')
    .where('id', 'not in', (of) => of.selectFrom('key_files').select('key_id'))
    .where('id', 'not in', (of) =>
      of.selectFrom('backups').select('key_id').where('zone', '=', zone).where('key_id', 'is not', null),
    )
    .where('id', 'not in', (of) => of.selectFrom('operations').select('key_id').where('active', '=', 1))
    .execute();
  return rows.map(({ id }) => id);
}
