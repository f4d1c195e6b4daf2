import { HoldfastError } from '@holdfast/common/errors.ts';
import type { Zone } from '@holdfast/proto/holdfast/v1/zone.ts';
import type { Db, Store, Trx } from '../store/store.ts';
import { parseName } from './name.ts';

/** Zones: parts of the fleet with settings, hosts and repositories of their own. */
export interface Zones {
  /** @throws HoldfastError NAME_INVALID, ZONE_EXISTS */
  create(name: string): Promise<Zone>;
  /** All of them, by name. */
  list(): Promise<Zone[]>;
  /** @throws HoldfastError INVALID_REQUEST without a name, ZONE_NOT_FOUND */
  require(name: string): Promise<void>;
}

export function createZones({ store, now }: { store: Store; now: () => Date }): Zones {
  const { db } = store;
  return {
    create: async (given) => {
      const name = parseName('zone', given);
      const createTime = now();
      return await store.transact(async (trx) => {
        if (await hasZone(trx, name)) {
          throw new HoldfastError('ZONE_EXISTS', `There is a zone ${name} already.`);
        }
        await trx.insertInto('zones').values({ name, create_time: createTime.toISOString() }).execute();
        return { name, createTime };
      });
    },
    list: async () => {
      const rows = await db.selectFrom('zones').selectAll().orderBy('name').execute();
      return rows.map((row) => ({ name: row.name, createTime: new Date(row.create_time) }));
    },
    require: async (name) => {
      if (name === '') throw new HoldfastError('INVALID_REQUEST', 'The zone is missing.');
      if (!(await hasZone(db, name))) throw zoneNotFound(name);
    },
  };
}

async function hasZone(db: Db | Trx, name: string): Promise<boolean> {
  const row = await db.selectFrom('zones').select('name').where('name', '=', name).executeTakeFirst();
  return row !== undefined;
}

function zoneNotFound(name: string): HoldfastError {
  return new HoldfastError('ZONE_NOT_FOUND', `There is no zone ${JSON.stringify(name)}.`, {
    metadata: { zone: name },
  });
}
