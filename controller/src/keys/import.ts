import { HoldfastError } from '@holdfast/common/errors.ts';
import { Secret } from '@holdfast/common/secret.ts';
import type { ImportKeysRequest, ImportKeysResponse } from '@holdfast/proto/holdfast/v1/key.ts';
import type { ZoneKeyFile } from '@holdfast/proto/holdfast/agent/v1/agent.ts';
import type { Repositories } from '../fleet/repositories.ts';
import type { KeyUpdates } from '../operations/update-keys.ts';
import type { KeyTable } from '../store/schema.ts';
import type { Store, Trx } from '../store/store.ts';
import type { Settings } from '../zones/settings.ts';
import { decryptUnder, keyIdOf, recipientOf } from './age.ts';
import { activeZoneKey } from './keys.ts';
import { listKeys } from './list.ts';
import { sealColumn } from './sealed.ts';
import { keyWork, noteKeyWork, noteRetirement } from './work.ts';

/** A zone key from its file. */
interface OpenedKey {
  readonly id: string;
  readonly recipient: string;
  readonly identity: Secret;
  readonly file: Uint8Array;
}

export interface ImportParts {
  readonly store: Store;
  readonly settings: Pick<Settings, 'resolveIn'>;
  readonly repositories: Repositories;
  readonly updates: KeyUpdates;
  readonly now: () => Date;
}

/**
 * Takes the zone keys of a repository over that the passphrase opens and that are not here. The first becomes the zone's
 * key when it has none; the backups of others are wrapped to the zone's key, unless they belong to a request's passphrase.
 *
 * @throws HoldfastError INVALID_REQUEST, KEY_NOT_FOUND when there is no key to take over, KEY_WRONG when the passphrase
 *   opens none, and what the repository says
 */
export async function importKeys(
  parts: ImportParts,
  { zone, repository, passphrase: text, requestPassphrase }: ImportKeysRequest,
  correlationId: string,
): Promise<ImportKeysResponse> {
  const { store, repositories, updates } = parts;
  if (text === '') throw new HoldfastError('INVALID_REQUEST', 'The passphrase is missing.');
  const place = await repositories.choose(repository, zone);
  const { zoneKeys } = await repositories.findKeyFiles(place, { keyIds: [], zoneKeys: true }, correlationId);
  const unknown = await unknownOnes(store, zoneKeys);
  if (unknown.length === 0) {
    throw new HoldfastError(
      'KEY_NOT_FOUND',
      `Repository ${place.name} has no key in its folder zone-keys that the controller does not have.`,
      { metadata: { repository: place.name } },
    );
  }
  const passphrase = new Secret(text);
  const opened: OpenedKey[] = [];
  for (const file of unknown) {
    const key = await openFile(file, passphrase);
    if (key !== undefined) opened.push(key);
  }
  if (opened.length === 0) {
    throw new HoldfastError(
      'KEY_WRONG',
      `The passphrase opens none of the keys ${unknown.map(({ keyId }) => keyId).join(', ')} of repository ${place.name}.`,
    );
  }
  const operation = await store.transact(async (trx) => {
    for (const key of await byUse(trx, opened)) {
      const origin = requestPassphrase ? 'request' : 'zone';
      await enter(parts, trx, { zone, origin, key, passphrase });
    }
    await noteKeyWork(parts, trx, zone);
    const work = await keyWork(trx, zone);
    return work.length === 0 ? undefined : await updates.ensure(trx, zone, { correlationId });
  });
  updates.begin();
  const all = await listKeys(store.db, zone);
  return { keys: all.filter(({ id }) => opened.some((key) => key.id === id)), operation };
}

async function unknownOnes(store: Store, files: readonly ZoneKeyFile[]): Promise<readonly ZoneKeyFile[]> {
  const known = await store.db.selectFrom('keys').select('id').where('state', '!=', 'missing').execute();
  return files.filter(({ keyId }) => !known.some(({ id }) => id === keyId));
}

/** Undefined when another passphrase opens it, or it is no key file of that name. */
async function openFile({ keyId, content }: ZoneKeyFile, passphrase: Secret): Promise<OpenedKey | undefined> {
  try {
    const text = await decryptUnder(passphrase, content);
    if (text === undefined) return undefined;
    const identity = new Secret(text.reveal().trim());
    const recipient = await recipientOf(identity);
    if (keyIdOf(recipient) !== keyId) return undefined;
    return { id: keyId, recipient, identity, file: content };
  } catch {
    // Damaged, or a file of something else.
    return undefined;
  }
}

/** Those with the most backups first. */
async function byUse(trx: Trx, keys: readonly OpenedKey[]): Promise<readonly OpenedKey[]> {
  const counted = await Promise.all(
    keys.map(async (key) => {
      const { count } = await trx
        .selectFrom('backups')
        .select((of) => of.fn.countAll<number | bigint>().as('count'))
        .where('key_id', '=', key.id)
        .executeTakeFirstOrThrow();
      return { key, count: Number(count) };
    }),
  );
  return counted.toSorted((one, other) => other.count - one.count).map(({ key }) => key);
}

async function enter(
  { store, now }: ImportParts,
  trx: Trx,
  given: {
    readonly zone: string;
    readonly origin: KeyTable['origin'];
    readonly key: OpenedKey;
    readonly passphrase: Secret;
  },
): Promise<void> {
  const { zone, origin, key, passphrase } = given;
  const isSpare = origin === 'zone' && (await activeZoneKey(trx, zone)) !== undefined;
  const row = {
    ...{ zone, origin },
    state: isSpare ? ('retiring' as const) : ('active' as const),
    recipient: key.recipient,
    identity_sealed: sealColumn(store, key.id, 'identity', key.identity),
    passphrase_sealed: sealColumn(store, key.id, 'passphrase', passphrase),
    key_file: key.file,
  };
  const known = await trx.selectFrom('keys').select('id').where('id', '=', key.id).executeTakeFirst();
  if (known !== undefined) await trx.updateTable('keys').set(row).where('id', '=', key.id).execute();
  else {
    await trx
      .insertInto('keys')
      .values({ id: key.id, ...row, generation: 1, create_time: now().toISOString(), retire_time: null })
      .execute();
  }
  if (isSpare) await noteRetirement(trx, zone, key.id);
}
