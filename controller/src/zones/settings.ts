import { HoldfastError } from '@holdfast/common/errors.ts';
import { Secret } from '@holdfast/common/secret.ts';
import { isSettingKey, parseSetting, type SettingKey } from '@holdfast/common/settings.ts';
import { SettingScope } from '@holdfast/proto/holdfast/v1/setting.ts';
import type { Store, Trx } from '../store/store.ts';
import {
  asValue,
  isSecure,
  resolveSettings,
  type ResolvedSettings,
  type SettingLayer,
  type SettingValue,
} from './resolve.ts';
import type { Zones } from './zones.ts';

/** The settings of zones, and of all zones. The global scope is the zone with the empty name. */
export interface Settings {
  /**
   * Sets and clears values of one scope, all or none.
   *
   * @throws HoldfastError ZONE_NOT_FOUND, SETTING_UNKNOWN, SETTING_INVALID, INVALID_REQUEST
   */
  change(
    zone: string,
    values: Readonly<Record<string, string>>,
    clear: readonly string[],
  ): Promise<ResolvedSettings>;
  /**
   * Every setting as it holds for a request in a zone.
   *
   * @throws HoldfastError ZONE_NOT_FOUND, SETTING_UNKNOWN, SETTING_INVALID
   */
  resolve(zone: string, request?: Readonly<Record<string, string>>): Promise<ResolvedSettings>;
}

export function createSettings({ store, zones }: { store: Store; zones: Zones }): Settings {
  const resolve: Settings['resolve'] = async (zone, request = {}) => {
    if (zone !== '') await zones.require(zone);
    const layers: SettingLayer[] = [
      { scope: SettingScope.SETTING_SCOPE_REQUEST, values: parseValues(request) },
      ...(zone === ''
        ? []
        : [{ scope: SettingScope.SETTING_SCOPE_ZONE, values: await valuesAt(store, zone) }]),
      { scope: SettingScope.SETTING_SCOPE_GLOBAL, values: await valuesAt(store, '') },
    ];
    return resolveSettings(layers);
  };
  return {
    resolve,
    change: async (zone, values, clear) => {
      if (zone !== '') await zones.require(zone);
      const parsed = parseValues(values);
      const cleared = clear.map((key) => parseCleared(key, parsed));
      await store.transact(async (trx) => {
        for (const key of [...parsed.keys(), ...cleared]) {
          await trx.deleteFrom('settings').where('zone', '=', zone).where('key', '=', key).execute();
        }
        for (const [key, value] of parsed) await insertValue(store, trx, zone, key, value);
      });
      return await resolve(zone);
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

function parseCleared(key: string, set: ReadonlyMap<SettingKey, SettingValue>): SettingKey {
  if (!isSettingKey(key)) {
    throw new HoldfastError('SETTING_UNKNOWN', `There is no setting ${JSON.stringify(key)}.`);
  }
  if (set.has(key)) {
    throw new HoldfastError('INVALID_REQUEST', `${key} cannot be set and cleared at the same time.`);
  }
  return key;
}

async function insertValue(
  store: Store,
  trx: Trx,
  zone: string,
  key: SettingKey,
  value: SettingValue,
): Promise<void> {
  await trx
    .insertInto('settings')
    .values({
      zone,
      key,
      value: value instanceof Secret ? null : value,
      value_sealed:
        value instanceof Secret ? store.sealer.seal(value.reveal(), rowIdentity(zone, key)) : null,
    })
    .execute();
}

async function valuesAt(store: Store, zone: string): Promise<Map<SettingKey, SettingValue>> {
  const rows = await store.db.selectFrom('settings').selectAll().where('zone', '=', zone).execute();
  const values = new Map<SettingKey, SettingValue>();
  for (const row of rows) {
    if (!isSettingKey(row.key)) continue;
    if (!isSecure(row.key)) values.set(row.key, row.value ?? '');
    else if (row.value_sealed !== null) {
      const opened = store.sealer.open(row.value_sealed, rowIdentity(zone, row.key));
      values.set(row.key, new Secret(opened.toString()));
    }
  }
  return values;
}

function rowIdentity(zone: string, key: string): string {
  return `settings.value:${zone}:${key}`;
}
