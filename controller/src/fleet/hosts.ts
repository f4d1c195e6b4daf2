import { parseAddress } from '@holdfast/common/address.ts';
import { HoldfastError } from '@holdfast/common/errors.ts';
import type { GetHostResponse, Host } from '@holdfast/proto/holdfast/v1/host.ts';
import type { Tables } from '../store/schema.ts';
import type { Store } from '../store/store.ts';
import { parseName } from '../zones/name.ts';
import type { Zones } from '../zones/zones.ts';
import type { Agents } from './agents.ts';
import type { HostHealth } from './host-health.ts';
import { hasLabel, parseLabelKey, parseLabels, type Labels } from './labels.ts';

/** KVM hosts, each with an agent. */
export interface Hosts {
  /**
   * Adds a host after its agent has said who it is. Without a name, it has the one that its agent gives.
   *
   * @throws HoldfastError ZONE_NOT_FOUND, NAME_INVALID, INVALID_REQUEST, AGENT_UNREACHABLE, ZONE_MISMATCH, HOST_EXISTS
   */
  add(
    given: {
      readonly zone: string;
      readonly name: string;
      readonly address: string;
      readonly labels: Labels;
    },
    correlationId: string,
  ): Promise<Host>;
  /**
   * By name; of one zone, and those that have all of some labels (`key`, `key=value`), where given. Without the numbers of
   * operations.
   *
   * @throws HoldfastError ZONE_NOT_FOUND
   */
  list(zone: string, labels?: readonly string[]): Promise<Host[]>;
  /** The same hosts with the numbers of their operations. */
  withOperations(hosts: readonly Host[]): Promise<Host[]>;
  /** @throws HoldfastError INVALID_REQUEST without a name, HOST_NOT_FOUND */
  find(name: string): Promise<Host>;
  /** A host of the zone. @throws HoldfastError as find, ZONE_MISMATCH */
  findInZone(name: string, zone: string): Promise<Host>;
  /** The host as its agent answers now. @throws HoldfastError as find, AGENT_UNREACHABLE */
  ask(name: string, correlationId: string): Promise<GetHostResponse>;
  /** Sets some labels and removes others. @throws HoldfastError as find, INVALID_REQUEST */
  setLabels(name: string, labels: Labels, remove: readonly string[]): Promise<Host>;
  /** Begins or ends a drain. @throws HoldfastError as find */
  setDrained(name: string, drained: boolean): Promise<Host>;
  /** @throws HoldfastError as find, IN_USE while an operation works on it */
  remove(name: string): Promise<void>;
}

export function createHosts(parts: {
  readonly store: Store;
  readonly zones: Zones;
  readonly agents: Agents;
  readonly health: HostHealth;
  readonly now: () => Date;
}): Hosts {
  const { store, zones, agents, health, now } = parts;
  const { db } = store;
  const toHost = (row: Tables['hosts']): Host => ({
    name: row.name,
    zone: row.zone,
    address: row.address,
    createTime: new Date(row.create_time),
    labels: JSON.parse(row.labels) as Labels,
    drained: row.drained === 1,
    ...health.of(row.name),
    runningOperations: 0,
    queuedOperations: 0,
  });
  const withOperations: Hosts['withOperations'] = async (hosts) => {
    const rows = await db
      .selectFrom('operations')
      .select(['host', 'start_sent', (count) => count.fn.countAll().as('operations')])
      .where('active', '=', 1)
      .groupBy(['host', 'start_sent'])
      .execute();
    const counts = new Map(rows.map((row) => [`${row.start_sent} ${row.host}`, Number(row.operations)]));
    const countOf = (host: string, begun: number): number => counts.get(`${begun} ${host}`) ?? 0;
    return hosts.map((host) => ({
      ...host,
      runningOperations: countOf(host.name, 1),
      queuedOperations: countOf(host.name, 0),
    }));
  };
  const described = async (name: string): Promise<Host> => {
    const [host] = await withOperations([await find(name)]);
    if (host === undefined) throw new TypeError('one host has one description');
    return host;
  };

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
    withOperations,
    setLabels: async (name, labels, remove) => {
      parseLabels(labels);
      for (const key of remove) {
        if (!Object.hasOwn(labels, parseLabelKey(key))) continue;
        throw new HoldfastError(
          'INVALID_REQUEST',
          `Label ${key} cannot be set and removed at the same time.`,
        );
      }
      await find(name);
      await store.transact(async (trx) => {
        const row = await trx
          .selectFrom('hosts')
          .select('labels')
          .where('name', '=', name)
          .executeTakeFirst();
        if (row === undefined) return;
        const kept = Object.entries(JSON.parse(row.labels) as Labels).filter(
          ([key]) => !remove.includes(key),
        );
        const wanted = parseLabels({ ...Object.fromEntries(kept), ...labels });
        await trx
          .updateTable('hosts')
          .set({ labels: JSON.stringify(wanted) })
          .where('name', '=', name)
          .execute();
      });
      return await described(name);
    },
    setDrained: async (name, drained) => {
      await find(name);
      await store.transact((trx) =>
        trx
          .updateTable('hosts')
          .set({ drained: drained ? 1 : 0 })
          .where('name', '=', name)
          .execute(),
      );
      return await described(name);
    },
    add: async (given, correlationId) => {
      await zones.require(given.zone);
      if (given.name !== '') parseName('host', given.name);
      parseAddress(given.address);
      const labels = parseLabels(given.labels);
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
      const row = {
        ...{ name, zone: given.zone, address: given.address, create_time: createTime.toISOString() },
        ...{ labels: JSON.stringify(labels), drained: 0 },
      };
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
      await health.look({ name, zone: given.zone, address: given.address });
      return toHost(row);
    },
    list: async (zone, labels = []) => {
      if (zone !== '') await zones.require(zone);
      const all = db.selectFrom('hosts').selectAll().orderBy('name');
      const rows = await (zone === '' ? all : all.where('zone', '=', zone)).execute();
      return rows.map(toHost).filter((host) => labels.every((each) => hasLabel(host.labels, each)));
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
      const before = await find(name);
      const answer = await agents.getHost(before, '', correlationId);
      await health.look(before);
      const host = await described(name);
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
      health.forget(host.name);
    },
  };
}
