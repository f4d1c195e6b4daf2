import { timingSafeEqual } from 'node:crypto';
import { HoldfastError } from '@holdfast/common/errors.ts';
import { Secret } from '@holdfast/common/secret.ts';
import type { BackupKey } from '@holdfast/proto/holdfast/agent/v1/agent.ts';
import type { Key } from '@holdfast/proto/holdfast/v1/key.ts';
import { SettingScope } from '@holdfast/proto/holdfast/v1/setting.ts';
import type { KeyTable } from '../store/schema.ts';
import type { Store, Trx } from '../store/store.ts';
import {
  decryptUnder,
  decryptWith,
  encryptTo,
  encryptUnder,
  generateKeyPair,
  keyIdOf,
  type KeyPair,
} from './age.ts';

/** age's own default: about a second of one core. */
export const DEFAULT_SCRYPT_WORK_FACTOR = 18;

/**
 * The key hierarchy. A backup's own key, random, is wrapped to a zone's key; the zone's key lies under its passphrase in
 * the repository, and sealed here. A passphrase that comes with a request has a key of its own.
 */
export interface Keys {
  /**
   * A new key for one backup, wrapped to the zone's key that goes with the passphrase; that key is made when there is
   * none, and put under the passphrase when it was under another. `zoneKeyFile` is still empty: see `zoneKeyFile`.
   */
  forNewBackup(zone: string, passphrase: { value: Secret; scope: SettingScope }): Promise<BackupKey>;
  /** The zone's key as an age file under its passphrase, made now when it is not there. Takes a second then. */
  zoneKeyFile(keyId: string): Promise<Buffer>;
  /**
   * The own key of a backup from its wrapped form. With a passphrase, that must open the zone's key.
   *
   * @throws HoldfastError KEY_WRONG, KEY_MISSING
   */
  unwrap(keyId: string, wrappedKey: Uint8Array, passphrase?: Secret): Promise<Secret>;
  /** A zone's keys, newest first, without their secret parts. */
  list(zone: string): Promise<Key[]>;
}

export function createKeys(parts: { store: Store; now: () => Date; scryptWorkFactor: number }): Keys {
  const { store, now, scryptWorkFactor } = parts;
  const { db } = store;

  const find = async (keyId: string): Promise<KeyTable> => {
    const row = await db.selectFrom('keys').selectAll().where('id', '=', keyId).executeTakeFirst();
    if (row !== undefined) return row;
    throw new HoldfastError(
      'KEY_MISSING',
      `This controller does not know zone key ${keyId}, which opens the backup. Until it does, docs/recover-by-hand.md opens it with the zone's passphrase.`,
      { metadata: { key: keyId } },
    );
  };

  const zoneKeyFile: Keys['zoneKeyFile'] = async (keyId) => {
    while (true) {
      const row = await find(keyId);
      if (row.key_file !== null) return Buffer.from(row.key_file);
      const passphrase = openColumn(store, row, 'passphrase');
      const file = await encryptUnder(
        passphrase,
        keyFileText(openColumn(store, row, 'identity')),
        scryptWorkFactor,
      );
      // The passphrase may have been changed meanwhile: then the file is under the wrong one.
      await store.transact((trx) =>
        trx
          .updateTable('keys')
          .set({ key_file: file })
          .where('id', '=', keyId)
          .where('key_file', 'is', null)
          .where('passphrase_sealed', '=', row.passphrase_sealed)
          .execute(),
      );
    }
  };

  return {
    zoneKeyFile,
    forNewBackup: async (zone, passphrase) => {
      const own = await generateKeyPair();
      const spare = await generateKeyPair();
      const row = await store.transact((trx) => chooseKey({ store, now, trx, zone, passphrase, spare }));
      const wrappedKey = await encryptTo(row.recipient, own.identity);
      return {
        keyId: row.id,
        secret: own.identity.reveal(),
        wrappedKey,
        zoneKeyFile: Buffer.alloc(0),
      };
    },
    unwrap: async (keyId, wrappedKey, passphrase) => {
      if (passphrase === undefined) {
        return await decryptWith(openColumn(store, await find(keyId), 'identity'), wrappedKey);
      }
      const text = await decryptUnder(passphrase, await zoneKeyFile(keyId));
      if (text === undefined) {
        throw new HoldfastError('KEY_WRONG', `The passphrase does not open key ${keyId} of the backup.`, {
          metadata: { key: keyId },
        });
      }
      return await decryptWith(new Secret(text.reveal().trim()), wrappedKey);
    },
    list: async (zone) => {
      const rows = await db
        .selectFrom('keys')
        .leftJoin('backups', 'backups.key_id', 'keys.id')
        .select((select) => [
          'keys.id',
          'keys.zone',
          'keys.recipient',
          'keys.create_time',
          select.fn.count<number>('backups.id').as('backups'),
        ])
        .where('keys.zone', '=', zone)
        .groupBy(['keys.id', 'keys.zone', 'keys.recipient', 'keys.create_time'])
        .orderBy('keys.create_time', 'desc')
        .orderBy('keys.id', 'desc')
        .execute();
      return rows.map((row) => ({
        id: row.id,
        zone: row.zone,
        recipient: row.recipient,
        createTime: new Date(row.create_time),
        backupCount: BigInt(row.backups),
      }));
    },
  };
}

/** An age identity file, as `age-keygen` writes it: with a newline, unlike a backup's own key. */
function keyFileText(identity: Secret): Secret {
  return new Secret(`${identity.reveal()}\n`);
}

/** Which of the zone's keys goes with a passphrase. Makes or changes the row where needed. */
async function chooseKey(parts: {
  store: Store;
  now: () => Date;
  trx: Trx;
  zone: string;
  passphrase: { value: Secret; scope: SettingScope };
  spare: KeyPair;
}): Promise<KeyTable> {
  const { store, now, trx, zone, passphrase, spare } = parts;
  const rows = await trx.selectFrom('keys').selectAll().where('zone', '=', zone).execute();
  const origin = passphrase.scope === SettingScope.SETTING_SCOPE_REQUEST ? 'request' : 'zone';
  const same = (row: KeyTable): boolean => equal(openColumn(store, row, 'passphrase'), passphrase.value);
  const zoneKey = rows.find((row) => row.origin === 'zone');
  if (origin === 'zone' && zoneKey !== undefined) {
    if (same(zoneKey)) return zoneKey;
    const changed = {
      passphrase_sealed: sealColumn(store, zoneKey.id, 'passphrase', passphrase.value),
      key_file: null,
    };
    await trx.updateTable('keys').set(changed).where('id', '=', zoneKey.id).execute();
    return { ...zoneKey, ...changed };
  }
  const known = origin === 'request' ? rows.find(same) : undefined;
  if (known !== undefined) return known;
  const id = keyIdOf(spare.recipient);
  const row: KeyTable = {
    id,
    zone,
    origin,
    recipient: spare.recipient,
    identity_sealed: sealColumn(store, id, 'identity', spare.identity),
    passphrase_sealed: sealColumn(store, id, 'passphrase', passphrase.value),
    key_file: null,
    create_time: now().toISOString(),
  };
  await trx.insertInto('keys').values(row).execute();
  return row;
}

function equal(one: Secret, other: Secret): boolean {
  const left = Buffer.from(one.reveal());
  const right = Buffer.from(other.reveal());
  return left.length === right.length && timingSafeEqual(left, right);
}

function sealColumn(
  store: Store,
  keyId: string,
  column: 'identity' | 'passphrase',
  value: Secret,
): Uint8Array {
  return store.sealer.seal(value.reveal(), `keys.${column}:${keyId}`);
}

function openColumn(store: Store, row: KeyTable, column: 'identity' | 'passphrase'): Secret {
  const sealed = column === 'identity' ? row.identity_sealed : row.passphrase_sealed;
  return new Secret(store.sealer.open(sealed, `keys.${column}:${row.id}`).toString());
}
