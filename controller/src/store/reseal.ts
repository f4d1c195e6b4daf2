import type { Secret } from '@holdfast/common/secret.ts';
import { createSealer, type Sealer } from './sealer.ts';
import { openStore, sealCheck, type StatePlace, type Trx } from './store.ts';

/**
 * Puts everything that is sealed in the state under another master key, in one transaction. No controller may work on it.
 *
 * @returns how many values were sealed anew
 * @throws HoldfastError as openStore, IN_USE while a controller works on the state
 */
export async function reseal(place: StatePlace, from: Secret, to: Secret): Promise<number> {
  const next = createSealer(to);
  const store = await openStore(place, from, { alone: true });
  try {
    const count = await store.transact((trx) => resealAll(trx, store.sealer, next));
    await store.scrub();
    return count;
  } finally {
    await store.close();
  }
}

/** Every column that is sealed, each with the name under which it is. */
async function resealAll(trx: Trx, from: Sealer, to: Sealer): Promise<number> {
  let count = 0;
  const again = (sealed: Uint8Array, identity: string): Uint8Array => {
    count += 1;
    return to.seal(from.open(sealed, identity), identity);
  };
  await trx
    .updateTable('controller_state')
    .set({ master_key_check_sealed: sealCheck(to) })
    .execute();
  for (const { zone, key, value_sealed: sealed } of await trx.selectFrom('settings').selectAll().execute()) {
    if (sealed === null) continue;
    const value = again(sealed, `settings.value:${zone}:${key}`);
    await trx
      .updateTable('settings')
      .set({ value_sealed: value })
      .where('zone', '=', zone)
      .where('key', '=', key)
      .execute();
  }
  const repositories = await trx.selectFrom('repositories').select(['name', 'credentials_sealed']).execute();
  for (const { name, credentials_sealed: sealed } of repositories) {
    if (sealed === null) continue;
    const credentials = again(sealed, `repositories.credentials:${name}`);
    await trx
      .updateTable('repositories')
      .set({ credentials_sealed: credentials })
      .where('name', '=', name)
      .execute();
  }
  const keys = await trx.selectFrom('keys').select(['id', 'identity_sealed', 'passphrase_sealed']).execute();
  for (const { id, identity_sealed: identity, passphrase_sealed: passphrase } of keys) {
    // Those that are missing or retired have none.
    if (identity.length === 0) continue;
    await trx
      .updateTable('keys')
      .set({
        identity_sealed: again(identity, `keys.identity:${id}`),
        passphrase_sealed: again(passphrase, `keys.passphrase:${id}`),
      })
      .where('id', '=', id)
      .execute();
  }
  const operations = await trx
    .selectFrom('operations')
    .select(['id', 'job_sealed'])
    .where('job_sealed', 'is not', null)
    .execute();
  for (const { id, job_sealed: sealed } of operations) {
    if (sealed === null) continue;
    const job = again(sealed, `operations.job:${id}`);
    await trx.updateTable('operations').set({ job_sealed: job }).where('id', '=', id).execute();
  }
  return count;
}
