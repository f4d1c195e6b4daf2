import { timingSafeEqual } from 'node:crypto';
import { HoldfastError } from '@holdfast/common/errors.ts';
import { Secret } from '@holdfast/common/secret.ts';
import type { KeyTable } from '../store/schema.ts';
import type { Store } from '../store/store.ts';

type Column = 'identity' | 'passphrase';

/** What stands in the place of a secret that is not there. */
export const NO_SECRET = new Uint8Array();

/** A secret of a key in the form in which it is stored. */
export function sealColumn(store: Store, keyId: string, column: Column, value: Secret): Uint8Array {
  return store.sealer.seal(value.reveal(), `keys.${column}:${keyId}`);
}

/** A secret of a key. @throws HoldfastError KEY_MISSING when it is not here, or not any more */
export function openColumn(store: Store, row: KeyTable, column: Column): Secret {
  const sealed = column === 'identity' ? row.identity_sealed : row.passphrase_sealed;
  if (sealed.length === 0) throw keyMissing(row.id);
  return new Secret(store.sealer.open(sealed, `keys.${column}:${row.id}`).toString());
}

export function keyMissing(keyId: string): HoldfastError {
  return new HoldfastError(
    'KEY_MISSING',
    `The controller does not have key ${keyId}. Take it over from its repository with its passphrase (holdfast key import), ` +
      'or open the backups with an escrow key (holdfast key recover).',
    { metadata: { key: keyId } },
  );
}

/** Whether two secrets are the same. */
export function isEqual(one: Secret, other: Secret): boolean {
  const left = Buffer.from(one.reveal());
  const right = Buffer.from(other.reveal());
  return left.length === right.length && timingSafeEqual(left, right);
}
