import { HoldfastError } from '@holdfast/common/errors.ts';
import { Secret } from '@holdfast/common/secret.ts';
import type { RecoverKeysRequest, RecoverKeysResponse } from '@holdfast/proto/holdfast/v1/key.ts';
import type { KeyUpdates } from '../operations/update-keys.ts';
import type { Store } from '../store/store.ts';
import { secretOf } from '../zones/resolve.ts';
import type { Settings } from '../zones/settings.ts';
import { decryptWith, encryptTo, generateKeyPair } from './age.ts';
import { UNWRITTEN_ESCROW } from './escrow.ts';
import { zoneKey } from './keys.ts';
import { noteKeyWork } from './work.ts';

const IDENTITY = /^AGE-SECRET-KEY-1[A-Z0-9]{58}$/;
/** So many backups are entered in one transaction. */
const BATCH = 500;

/**
 * Wraps to the zone's key those backups whose key is missing and that an escrow identity opens. Their files are written in
 * the background.
 *
 * @throws HoldfastError INVALID_REQUEST, PASSPHRASE_MISSING when the zone has neither a key nor a passphrase for one,
 *   KEY_WRONG when the identity opens none of them
 */
export async function recoverKeys(
  parts: {
    readonly store: Store;
    readonly settings: Pick<Settings, 'resolveIn'>;
    readonly updates: KeyUpdates;
    readonly now: () => Date;
  },
  { zone, identity: text }: RecoverKeysRequest,
  correlationId: string,
): Promise<RecoverKeysResponse> {
  const { store, settings, updates, now } = parts;
  if (!IDENTITY.test(text.trim())) {
    throw new HoldfastError('INVALID_REQUEST', 'The escrow identity must be one line: AGE-SECRET-KEY-1...');
  }
  const identity = new Secret(text.trim());
  const rows = await store.db
    .selectFrom('backups')
    .innerJoin('keys', 'keys.id', 'backups.key_id')
    .select(['backups.id', 'backups.wrapped_key'])
    .where('backups.zone', '=', zone)
    .where('keys.state', '=', 'missing')
    .execute();
  if (rows.length === 0) return { recoveredCount: 0n, missingCount: 0n, operation: undefined };
  const opened: { readonly id: string; readonly secret: Secret }[] = [];
  for (const row of rows) {
    const secret = await decryptWith(identity, row.wrapped_key ?? new Uint8Array()).catch(() => undefined);
    if (secret !== undefined) opened.push({ id: row.id, secret });
  }
  if (opened.length === 0) {
    throw new HoldfastError(
      'KEY_WRONG',
      `The escrow identity opens none of the ${rows.length} backups whose key is missing in zone ${zone}.`,
      { metadata: { zone } },
    );
  }
  const spare = await generateKeyPair();
  const key = await store.transact(async (trx) => {
    const passphrase = secretOf(
      await settings.resolveIn(trx, zone),
      'nas.backup.encryption.passphrase',
    ).value;
    const made = await zoneKey(store, trx, { zone, passphrase, spare, now: now() });
    if (passphrase.reveal() !== '' || made.recipient !== spare.recipient) return made;
    throw new HoldfastError(
      'PASSPHRASE_MISSING',
      `Zone ${zone} has no key, and no passphrase for one. Set nas.backup.encryption.passphrase first.`,
      { metadata: { zone } },
    );
  });
  for (let at = 0; at < opened.length; at += BATCH) {
    const wrapped = await Promise.all(
      opened.slice(at, at + BATCH).map(async ({ id, secret }) => ({
        id,
        wrappedKey: await encryptTo([key.recipient], secret),
      })),
    );
    await store.transact(async (trx) => {
      for (const { id, wrappedKey } of wrapped) {
        // The update of key files adds the escrow recipients.
        await trx
          .updateTable('backups')
          .set({ key_id: key.id, wrapped_key: wrappedKey, escrow_id: UNWRITTEN_ESCROW })
          .where('id', '=', id)
          .execute();
      }
    });
  }
  const operation = await store.transact(async (trx) => {
    await noteKeyWork(parts, trx, zone);
    return await updates.ensure(trx, zone, { correlationId });
  });
  updates.begin();
  return {
    recoveredCount: BigInt(opened.length),
    missingCount: BigInt(rows.length - opened.length),
    operation,
  };
}
