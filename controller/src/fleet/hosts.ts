import { parseAddress } from '@holdfast/common/address.ts';
import { HoldfastError } from '@holdfast/common/errors.ts';
import type { GetHostResponse, Host } from '@holdfast/proto/holdfast/v1/host.ts';
import type { Store } from '../store/store.ts';
import { parseName } from '../zones/name.ts';
import type { Zones } from '../zones/zones.ts';
import type { Agents } from './agents.ts';

/** KVM hosts, each with an agent. */
export interface Hosts {
  /**
   * Adds a host after its agent has said who it is. Without a name, it has the one that its agent gives.
   *
   * @throws HoldfastError ZONE_NOT_FOUND, NAME_INVALID, INVALID_REQUEST, AGENT_UNREACHABLE, ZONE_MISMATCH, HOST_EXISTS
   */
  add(
    given: { readonly zone: string; readonly name: string; readonly address: string },
    correlationId: string,
  ): Promise<Host>;
  /** By name; of one zone, when it is given. @throws HoldfastError ZONE_NOT_FOUND */
  list(zone: string): Promise<Host[]>;
  /** @throws HoldfastError INVALID_REQUEST without a name, HOST_NOT_FOUND */
  find(name: string): Promise<Host>;
  /** A host of the zone. @throws HoldfastError as find, ZONE_MISMATCH */
  findInZone(name: string, zone: string): Promise<Host>;
  /** The host as its agent answers now. @throws HoldfastError as find, AGENT_UNREACHABLE */
  ask(name: string, correlationId: string): Promise<GetHostResponse>;
  /** @throws HoldfastError as find, IN_USE while an operation works on it */
  remove(name: string): Promise<void>;
}

export function createHosts(parts: { store: Store; zones: Zones; agents: Agents; now: () => Date }): Hosts {
  const { store, zones, agents, now } = parts;
  const { db } = store;

  const find: Hosts['find'] = async (name) => {
    if (name === '') throw new HoldfastError('INVALID_REQUEST', 'The host is missing.');
    const row = await db.selectFrom('hosts').selectAll().where('name', '=', name).executeTakeFirst();
    if (row === undefined) {
      throw new HoldfastError('HOST_NOT_FOUND', `There is no host ${JSON.stringify(name)}.`, {
        metadata: { host: name },
      });
    }
    return toHost(row);
  };

  return {
    find,
    add: async (given, correlationId) => {
      await zones.require(given.zone);
      if (given.name !== '') parseName('host', given.name);
      parseAddress(given.address);
      const place = { name: given.name || given.address, zone: given.zone, address: given.address };
      const answer = await agents.getHost(place, '', correlationId);
      if (answer.zone !== given.zone) {
        throw new HoldfastError(
          'ZONE_MISMATCH',
          `The agent at ${given.address} belongs to zone ${JSON.stringify(answer.zone)}, not to ${given.zone}.`,
          { metadata: { zone: given.zone, agentZone: answer.zone } },
        );
      }
      const name = parseName('host', given.name || answer.name);
      const createTime = now();
      const row = { name, zone: given.zone, address: given.address, create_time: createTime.toISOString() };
      await store.transact(async (trx) => {
        const taken = await trx
          .selectFrom('hosts')
          .select(['name', 'address'])
          .where((where) => where.or([where('name', '=', name), where('address', '=', given.address)]))
          .executeTakeFirst();
        if (taken !== undefined) {
          throw new HoldfastError(
            'HOST_EXISTS',
            `There is a host ${taken.name} at ${taken.address} already.`,
            { metadata: { host: taken.name } },
          );
        }
        await trx.insertInto('hosts').values(row).execute();
      });
      return toHost(row);
    },
    list: async (zone) => {
      if (zone !== '') await zones.require(zone);
      const all = db.selectFrom('hosts').selectAll().orderBy('name');
      const rows = await (zone === '' ? all : all.where('zone', '=', zone)).execute();
      return rows.map(toHost);
    },
    findInZone: async (name, zone) => {
      const host = await find(name);
      if (host.zone === zone) return host;
      throw new HoldfastError(
        'ZONE_MISMATCH',
        `Host ${host.name} belongs to zone ${host.zone}, not to ${zone}.`,
        { metadata: { host: host.name, zone } },
      );
    },
    ask: async (name, correlationId) => {
      const host = await find(name);
      const answer = await agents.getHost(host, '', correlationId);
      return { host, toolVersions: answer.toolVersions, domains: answer.domains };
    },
    remove: async (name) => {
      const host = await find(name);
      await store.transact(async (trx) => {
        const busy = await trx
          .selectFrom('operations')
          .select('id')
          .where('active', '=', 1)
          .where('host', '=', host.name)
          .executeTakeFirst();
        if (busy !== undefined) {
          throw new HoldfastError('IN_USE', `Operation ${busy.id} works on host ${host.name}.`, {
            metadata: { operation: busy.id },
          });
        }
        await trx.deleteFrom('hosts').where('name', '=', host.name).execute();
      });
      agents.forget(host.address);
    },
  };
}

function toHost(row: { name: string; zone: string; address: string; create_time: string }): Host {
  return { name: row.name, zone: row.zone, address: row.address, createTime: new Date(row.create_time) };
}
