import { HoldfastError } from '@holdfast/common/errors.ts';
import { Secret } from '@holdfast/common/secret.ts';
import type { BackupKey } from '@holdfast/proto/holdfast/agent/v1/agent.ts';
import { SettingScope } from '@holdfast/proto/holdfast/v1/setting.ts';
import type { KeyTable } from '../store/schema.ts';
import type { Db, Store, Trx } from '../store/store.ts';
import { secretOf } from '../zones/resolve.ts';
import type { Settings } from '../zones/settings.ts';
import { decryptUnder, decryptWith, encryptTo, encryptUnder, generateKeyPair, keyIdOf } from './age.ts';
import type { KeyPair } from './age.ts';
import { escrowOf } from './escrow.ts';
import { isEqual, keyMissing, openColumn, sealColumn } from './sealed.ts';

/** age's own default: about a second of one core. */
export const DEFAULT_SCRYPT_WORK_FACTOR = 18;

/** To what the key of a backup that is taken is wrapped, and under which passphrase that lies. */
export interface KeyUse {
  readonly keyId: string;
  readonly generation: number;
  readonly escrowId: string;
}

/**
 * The key hierarchy. A backup's own key, random, is wrapped to a zone's key and to its escrow recipients; the zone's key
 * lies under its passphrase in the repository, and sealed here. A passphrase that comes with a request has a key of its
 * own.
 */
export interface Keys {
  /**
   * A new key for one backup, wrapped to the zone's key, which is made when there is none, or to that of a request's
   * passphrase. `zoneKeyFile` is still empty: see `zoneKeyFile`.
   */
  forNewBackup(
    zone: string,
    passphrase: { value: Secret; scope: SettingScope },
  ): Promise<{ readonly key: BackupKey; readonly use: KeyUse }>;
  /** Whether a new backup of the zone may still be taken so, or needs a key anew. */
  isCurrent(trx: Trx, zone: string, use: KeyUse): Promise<boolean>;
  /** The zone's key as an age file under its passphrase, made now when it is not there. Takes a second then. */
  zoneKeyFile(keyId: string): Promise<Buffer>;
  /**
   * The own key of a backup from its wrapped form. With a passphrase, that must open the zone's key.
   *
   * @throws HoldfastError KEY_WRONG, KEY_MISSING
   */
  unwrap(keyId: string, wrappedKey: Uint8Array, passphrase?: Secret): Promise<Secret>;
}

export function createKeys(parts: {
  store: Store;
  settings: Pick<Settings, 'resolveIn'>;
  now: () => Date;
  scryptWorkFactor: number;
}): Keys {
  const { store, settings, now, scryptWorkFactor } = parts;
  const { db } = store;

  const find = async (keyId: string): Promise<KeyTable> => {
    const row = await db.selectFrom('keys').selectAll().where('id', '=', keyId).executeTakeFirst();
    if (row === undefined) throw keyMissing(keyId);
    return row;
  };

  const zoneKeyFile: Keys['zoneKeyFile'] = async (keyId) => {
    while (true) {
      const row = await find(keyId);
      if (row.key_file !== null) return Buffer.from(row.key_file);
      const passphrase = openColumn(store, row, 'passphrase');
      const identity = openColumn(store, row, 'identity');
      const file = await encryptUnder(passphrase, keyFileText(identity), scryptWorkFactor);
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
      const { row, escrow } = await store.transact(async (trx) => {
        const resolved = await settings.resolveIn(trx, zone);
        const present = secretOf(resolved, 'nas.backup.encryption.passphrase').value;
        const isOwn = passphrase.scope === SettingScope.SETTING_SCOPE_REQUEST;
        return {
          escrow: escrowOf(resolved),
          row: isOwn
            ? await requestKey(store, trx, { zone, passphrase: passphrase.value, spare, now: now() })
            : await zoneKey(store, trx, {
                zone,
                passphrase: present.reveal() === '' ? passphrase.value : present,
                ...{ spare, now: now() },
              }),
        };
      });
      const wrappedKey = await encryptTo([row.recipient, ...escrow.recipients], own.identity);
      return {
        key: { keyId: row.id, secret: own.identity.reveal(), wrappedKey, zoneKeyFile: Buffer.alloc(0) },
        use: { keyId: row.id, generation: row.generation, escrowId: escrow.id },
      };
    },
    isCurrent: async (trx, zone, { keyId, generation, escrowId }) => {
      const row = await trx
        .selectFrom('keys')
        .select(['state', 'generation'])
        .where('id', '=', keyId)
        .executeTakeFirst();
      return (
        row?.state === 'active' &&
        row.generation === generation &&
        escrowOf(await settings.resolveIn(trx, zone)).id === escrowId
      );
    },
    unwrap: async (keyId, wrappedKey, passphrase) => {
      const row = await find(keyId);
      const identity = openColumn(store, row, 'identity');
      if (passphrase === undefined) return await decryptWith(identity, wrappedKey);
      const text = await decryptUnder(passphrase, await zoneKeyFile(keyId));
      if (text !== undefined) return await decryptWith(new Secret(text.reveal().trim()), wrappedKey);
      throw new HoldfastError('KEY_WRONG', `The passphrase does not open key ${keyId} of the backup.`, {
        metadata: { key: keyId },
      });
    },
  };
}

/** An age identity file, as `age-keygen` writes it: with a newline, unlike a backup's own key. */
function keyFileText(identity: Secret): Secret {
  return new Secret(`${identity.reveal()}\n`);
}

/** What a new key of a zone is made of. */
interface NewKey {
  readonly zone: string;
  readonly passphrase: Secret;
  /** The pair that it becomes. */
  readonly spare: KeyPair;
  readonly now: Date;
}

/** The key to which new backups of a zone are wrapped, if it has one. */
export async function activeZoneKey(trx: Db | Trx, zone: string): Promise<KeyTable | undefined> {
  return await trx
    .selectFrom('keys')
    .selectAll()
    .where('zone', '=', zone)
    .where('origin', '=', 'zone')
    .where('state', '=', 'active')
    .executeTakeFirst();
}

/** The active key of a zone, made when there is none. */
export async function zoneKey(store: Store, trx: Trx, made: NewKey): Promise<KeyTable> {
  return (await activeZoneKey(trx, made.zone)) ?? (await insertKey(store, trx, { ...made, origin: 'zone' }));
}

/** The key that goes with a request's passphrase: there may be one, of the zone or of a request before. */
async function requestKey(store: Store, trx: Trx, made: NewKey): Promise<KeyTable> {
  const rows = await trx
    .selectFrom('keys')
    .selectAll()
    .where('zone', '=', made.zone)
    .where('state', '=', 'active')
    .execute();
  const known = rows.find((row) => isEqual(openColumn(store, row, 'passphrase'), made.passphrase));
  return known ?? (await insertKey(store, trx, { ...made, origin: 'request' }));
}

/** Enters a new key that is active at once. */
export async function insertKey(
  store: Store,
  trx: Trx,
  { zone, passphrase, spare, now, origin }: NewKey & Pick<KeyTable, 'origin'>,
): Promise<KeyTable> {
  const id = keyIdOf(spare.recipient);
  const row: KeyTable = {
    ...{ id, zone, origin },
    state: 'active',
    recipient: spare.recipient,
    identity_sealed: sealColumn(store, id, 'identity', spare.identity),
    passphrase_sealed: sealColumn(store, id, 'passphrase', passphrase),
    key_file: null,
    generation: 1,
    create_time: now.toISOString(),
    retire_time: null,
  };
  await trx.insertInto('keys').values(row).execute();
  return row;
}
