import { HoldfastError } from '@holdfast/common/errors.ts';
import { Secret } from '@holdfast/common/secret.ts';
import { isSettingKey, isShared, parseSetting, type SettingKey } from '@holdfast/common/settings.ts';
import { SettingScope } from '@holdfast/proto/holdfast/v1/setting.ts';
import type { ListSettingChangesRequest } from '@holdfast/proto/holdfast/v1/zone.ts';
import { requireRecipients } from '../keys/escrow.ts';
import type { Db, Store, Trx } from '../store/store.ts';
import {
  asValue,
  isSecure,
  resolveSettings,
  type ResolvedSettings,
  type SettingLayer,
  type SettingValue,
} from './resolve.ts';
import { listSettingChanges, noteSettingChange, type ChangeAuthor } from './setting-changes.ts';
import type { Zones } from './zones.ts';

/** The settings of zones, and of all zones. The global scope is the zone with the empty name. */
export interface Settings {
  /**
   * Sets and clears values of one scope, all or none, and notes each that is another than before.
   *
   * @throws HoldfastError ZONE_NOT_FOUND, SETTING_UNKNOWN, SETTING_INVALID, INVALID_REQUEST
   */
  change(
    zone: string,
    change: {
      readonly values: Readonly<Record<string, string>>;
      readonly clear: readonly string[];
      readonly author: Omit<ChangeAuthor, 'time'>;
    },
  ): Promise<ResolvedSettings>;
  /**
   * Every setting as it holds for a request in a zone.
   *
   * @throws HoldfastError ZONE_NOT_FOUND, SETTING_UNKNOWN, SETTING_INVALID
   */
  resolve(zone: string, request?: Readonly<Record<string, string>>): Promise<ResolvedSettings>;
  /** Every setting as it holds for a zone, as a transaction sees it. */
  resolveIn(db: Db | Trx, zone: string): Promise<ResolvedSettings>;
  /**
   * Who changed what, newest first; of one zone and one setting, where given.
   *
   * @throws HoldfastError ZONE_NOT_FOUND, SETTING_UNKNOWN, INVALID_REQUEST
   */
  changes(query: ListSettingChangesRequest): ReturnType<typeof listSettingChanges>;
}

/** @param parts.changed told in the transaction that changes settings of a zone, or of all; runs again when that does */
export function createSettings(parts: {
  store: Store;
  zones: Zones;
  now: () => Date;
  changed?: (trx: Trx, zone: string, keys: readonly SettingKey[]) => Promise<void>;
}): Settings {
  const { store, zones, now, changed } = parts;
  const resolve: Settings['resolve'] = async (zone, request = {}) => {
    if (zone !== '') await zones.require(zone);
    const layers: SettingLayer[] = [
      { scope: SettingScope.SETTING_SCOPE_REQUEST, values: parseRequest(request) },
      ...(zone === ''
        ? []
        : [{ scope: SettingScope.SETTING_SCOPE_ZONE, ...(await valuesAt(store, store.db, zone)) }]),
      { scope: SettingScope.SETTING_SCOPE_GLOBAL, ...(await valuesAt(store, store.db, '')) },
    ];
    return resolveSettings(layers);
  };
  return {
    resolve,
    resolveIn: async (db, zone) =>
      resolveSettings([
        { scope: SettingScope.SETTING_SCOPE_ZONE, ...(await valuesAt(store, db, zone)) },
        { scope: SettingScope.SETTING_SCOPE_GLOBAL, ...(await valuesAt(store, db, '')) },
      ]),
    change: async (zone, { values, clear, author }) => {
      if (zone !== '') await zones.require(zone);
      const wanted = new Map<SettingKey, SettingValue | undefined>(parseValues(values));
      for (const key of clear) wanted.set(parseCleared(key, wanted), undefined);
      requireRecipients(values['nas.backup.encryption.escrow.recipients'] ?? '');
      const time = now();
      await store.transact(async (trx) => {
        const before = (await valuesAt(store, trx, zone)).values;
        for (const [key, to] of wanted) {
          const from = before.get(key);
          if (isSame(from, to)) continue;
          await trx.deleteFrom('settings').where('zone', '=', zone).where('key', '=', key).execute();
          if (to !== undefined) await insertValue({ store, trx, zone, key, value: to, time });
          await noteSettingChange(trx, { ...author, time }, { zone, key, from, to });
        }
        await changed?.(trx, zone, [...wanted.keys()]);
      });
      return await resolve(zone);
    },
    changes: async ({ zone, globalOnly, key, pageSize, pageToken }) => {
      if (zone !== '' && globalOnly) {
        throw new HoldfastError('INVALID_REQUEST', 'Ask for a zone or for the global scope, not for both.');
      }
      if (zone !== '') await zones.require(zone);
      return await listSettingChanges(store.db, {
        zone: zone === '' && !globalOnly ? undefined : zone,
        key: key === '' ? undefined : requireKey(key),
        pageSize,
        pageToken,
      });
    },
  };
}

function parseValues(values: Readonly<Record<string, string>>): Map<SettingKey, SettingValue> {
  return new Map(
    Object.entries(values).map(([givenKey, givenValue]) => {
      const { key, value } = parseSetting(givenKey, givenValue);
      return [key, asValue(key, value)];
    }),
  );
}

/** @throws HoldfastError SETTING_INVALID for one that all requests share */
function parseRequest(values: Readonly<Record<string, string>>): Map<SettingKey, SettingValue> {
  const parsed = parseValues(values);
  for (const key of parsed.keys()) {
    if (!isShared(key)) continue;
    throw new HoldfastError(
      'SETTING_INVALID',
      `${key} holds for a whole zone and cannot be set for one request.`,
      { metadata: { key } },
    );
  }
  return parsed;
}

function parseCleared(given: string, set: ReadonlyMap<SettingKey, SettingValue | undefined>): SettingKey {
  const key = requireKey(given);
  if (set.get(key) !== undefined) {
    throw new HoldfastError('INVALID_REQUEST', `${key} cannot be set and cleared at the same time.`);
  }
  return key;
}

function requireKey(key: string): SettingKey {
  if (isSettingKey(key)) return key;
  throw new HoldfastError('SETTING_UNKNOWN', `There is no setting ${JSON.stringify(key)}.`);
}

function isSame(one: SettingValue | undefined, other: SettingValue | undefined): boolean {
  return one instanceof Secret && other instanceof Secret ? one.reveal() === other.reveal() : one === other;
}

async function insertValue(given: {
  store: Store;
  trx: Trx;
  zone: string;
  key: SettingKey;
  value: SettingValue;
  time: Date;
}): Promise<void> {
  const { store, trx, zone, key, value, time } = given;
  await trx
    .insertInto('settings')
    .values({
      zone,
      key,
      value: value instanceof Secret ? null : value,
      value_sealed:
        value instanceof Secret ? store.sealer.seal(value.reveal(), rowIdentity(zone, key)) : null,
      change_time: time.toISOString(),
    })
    .execute();
}

async function valuesAt(
  store: Store,
  db: Db | Trx,
  zone: string,
): Promise<Required<Pick<SettingLayer, 'values' | 'changeTimes'>>> {
  const rows = await db.selectFrom('settings').selectAll().where('zone', '=', zone).execute();
  const values = new Map<SettingKey, SettingValue>();
  const changeTimes = new Map<SettingKey, Date>();
  for (const row of rows) {
    if (!isSettingKey(row.key)) continue;
    if (row.change_time !== '') changeTimes.set(row.key, new Date(row.change_time));
    if (!isSecure(row.key)) values.set(row.key, row.value ?? '');
    else if (row.value_sealed !== null) {
      const opened = store.sealer.open(row.value_sealed, rowIdentity(zone, row.key));
      values.set(row.key, new Secret(opened.toString()));
    }
  }
  return { values, changeTimes };
}

function rowIdentity(zone: string, key: string): string {
  return `settings.value:${zone}:${key}`;
}
