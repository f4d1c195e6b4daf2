import { HoldfastError } from '@holdfast/common/errors.ts';
import { OperationKind, type Operation } from '@holdfast/proto/holdfast/v1/operation.ts';
import { RotateKeyRequest } from '@holdfast/proto/holdfast/v1/key.ts';
import { runningUpdate, type KeyUpdates } from '../operations/update-keys.ts';
import type { Submit } from '../operations/submit.ts';
import type { Store } from '../store/store.ts';
import { generateKeyPair } from './age.ts';
import { activeZoneKey, insertKey } from './keys.ts';
import { openColumn } from './sealed.ts';
import { noteRetirement } from './work.ts';

/**
 * Makes a new key for a zone, which new backups use at once, and has those before retired.
 *
 * @throws HoldfastError INVALID_REQUEST, KEY_NOT_FOUND when the zone has no key yet, IN_USE while a rotation runs
 */
export async function rotateKey(
  parts: {
    readonly store: Store;
    readonly updates: KeyUpdates;
    readonly submit: Submit;
    readonly now: () => Date;
  },
  asked: RotateKeyRequest,
  correlationId: string,
): Promise<{ readonly operation: Operation; readonly keyId: string }> {
  const { store, updates, submit, now } = parts;
  const { zone, requestId } = asked;
  const request = {
    kind: OperationKind.OPERATION_KIND_UPDATE_KEYS,
    requestId,
    content: RotateKeyRequest.toJSON(asked),
  };
  const earlier = await submit.earlier(request);
  if (earlier !== undefined) {
    return { operation: earlier, keyId: (await activeZoneKey(store.db, zone))?.id ?? '' };
  }
  const spare = await generateKeyPair();
  const rotated = await store.transact(async (trx) => {
    const before = await activeZoneKey(trx, zone);
    if (before === undefined) {
      throw new HoldfastError(
        'KEY_NOT_FOUND',
        `Zone ${zone} has no key to be rotated: its first encrypted backup makes one.`,
        { metadata: { zone } },
      );
    }
    const retiring = await trx
      .selectFrom('keys')
      .select('id')
      .where('zone', '=', zone)
      .where('state', '=', 'retiring')
      .execute();
    const running = await runningUpdate(trx, zone);
    if (running !== undefined && retiring.length > 0) {
      throw new HoldfastError('IN_USE', `Operation ${running.id} rotates the key of zone ${zone} already.`, {
        metadata: { operation: running.id },
      });
    }
    await trx.updateTable('keys').set({ state: 'retiring' }).where('id', '=', before.id).execute();
    const passphrase = openColumn(store, before, 'passphrase');
    const made = await insertKey(store, trx, { zone, passphrase, spare, now: now(), origin: 'zone' });
    // Those of a rotation that was cancelled, too.
    for (const { id } of [before, ...retiring]) await noteRetirement(trx, zone, id);
    const operation = await updates.ensure(trx, zone, { correlationId, request });
    return { operation, keyId: made.id };
  });
  updates.begin();
  return rotated;
}
