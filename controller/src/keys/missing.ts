import type { Trx } from '../store/store.ts';
import { NO_SECRET } from './sealed.ts';

/** Notes that a backup needs a key that may not be here: one that is not known, or whose secrets are gone. */
export async function noteMissingKey(trx: Trx, zone: string, keyId: string, now: Date): Promise<void> {
  const known = await trx.selectFrom('keys').select('state').where('id', '=', keyId).executeTakeFirst();
  if (known === undefined) {
    await trx
      .insertInto('keys')
      .values({
        ...{ id: keyId, zone, origin: 'zone', state: 'missing', recipient: '', key_file: null },
        ...{ identity_sealed: NO_SECRET, passphrase_sealed: NO_SECRET, generation: 1 },
        ...{ create_time: now.toISOString(), retire_time: null },
      })
      .execute();
  } else if (known.state === 'retired') {
    await trx
      .updateTable('keys')
      .set({ state: 'missing', retire_time: null })
      .where('id', '=', keyId)
      .execute();
  }
}
