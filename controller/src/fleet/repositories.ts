import { isAbsolute, normalize } from 'node:path/posix';
import { HoldfastError } from '@holdfast/common/errors.ts';
import type { GetRepositoryStatsResponse, RepositoryRef } from '@holdfast/proto/holdfast/agent/v1/agent.ts';
import { RepositoryType, type Repository } from '@holdfast/proto/holdfast/v1/repository.ts';
import type { Store } from '../store/store.ts';
import { parseName } from '../zones/name.ts';
import type { Zones } from '../zones/zones.ts';
import type { Agents } from './agents.ts';
import type { Hosts } from './hosts.ts';

/** A path longer than this is refused by Linux (PATH_MAX). */
const MAX_PATH_BYTES = 4_095;

/** Where backups lie. */
export interface Repositories {
  /**
   * Adds a repository after a host of the zone has proved that it can write to it.
   *
   * @throws HoldfastError ZONE_NOT_FOUND, NAME_INVALID, INVALID_REQUEST, HOST_NOT_FOUND when the zone has no host,
   *   AGENT_UNREACHABLE, REPOSITORY_EXISTS, and what the agent finds wrong with it (REPOSITORY_UNUSABLE, ...)
   */
  add(
    given: {
      readonly zone: string;
      readonly name: string;
      readonly type: RepositoryType;
      readonly path: string;
    },
    correlationId: string,
  ): Promise<Repository>;
  /** By name; of one zone, when it is given. @throws HoldfastError ZONE_NOT_FOUND */
  list(zone: string): Promise<Repository[]>;
  /** @throws HoldfastError INVALID_REQUEST without a name, REPOSITORY_NOT_FOUND */
  find(name: string): Promise<Repository>;
  /**
   * The repository of that name, or the only one of the zone when no name is given.
   *
   * @throws HoldfastError as find, ZONE_MISMATCH, INVALID_REQUEST when there is a choice to make
   */
  choose(name: string, zone: string): Promise<Repository>;
  /** Its space, in bytes, as the first host of its zone that answers sees it. @throws as add */
  stats(repository: Repository, correlationId: string): Promise<GetRepositoryStatsResponse>;
  /** @throws HoldfastError as find, IN_USE while backups or running operations refer to it */
  remove(name: string): Promise<void>;
}

/** The repository in the form that agents take. */
export function repositoryRef(repository: Repository): RepositoryRef {
  return { name: repository.name, type: repository.type, path: repository.path };
}

export function createRepositories(parts: {
  store: Store;
  zones: Zones;
  hosts: Hosts;
  agents: Agents;
  now: () => Date;
}): Repositories {
  const { store, zones, hosts, agents, now } = parts;
  const { db } = store;

  const list: Repositories['list'] = async (zone) => {
    if (zone !== '') await zones.require(zone);
    const all = db.selectFrom('repositories').selectAll().orderBy('name');
    const rows = await (zone === '' ? all : all.where('zone', '=', zone)).execute();
    return rows.map(toRepository);
  };
  const find: Repositories['find'] = async (name) => {
    if (name === '') throw new HoldfastError('INVALID_REQUEST', 'The repository is missing.');
    const row = await db.selectFrom('repositories').selectAll().where('name', '=', name).executeTakeFirst();
    if (row === undefined) {
      throw new HoldfastError('REPOSITORY_NOT_FOUND', `There is no repository ${JSON.stringify(name)}.`, {
        metadata: { repository: name },
      });
    }
    return toRepository(row);
  };
  const stats: Repositories['stats'] = async (repository, correlationId) => {
    const candidates = await hosts.list(repository.zone);
    let failure = new HoldfastError(
      'HOST_NOT_FOUND',
      `Zone ${repository.zone} has no host that could look at the repository. Add a host first.`,
    );
    for (const host of candidates) {
      try {
        const request = { zone: repository.zone, repository: repositoryRef(repository) };
        return await agents.getRepositoryStats(host, request, correlationId);
      } catch (error) {
        if (!(error instanceof HoldfastError) || error.reason !== 'AGENT_UNREACHABLE') throw error;
        failure = error;
      }
    }
    throw failure;
  };

  return {
    list,
    find,
    stats,
    add: async (given, correlationId) => {
      await zones.require(given.zone);
      const repository: Repository = {
        name: parseName('repository', given.name),
        zone: given.zone,
        type: parseType(given.type),
        path: parsePath(given.path),
        createTime: now(),
      };
      await refuseKnown(db, repository.name);
      await stats(repository, correlationId);
      await db.transaction().execute(async (trx) => {
        await refuseKnown(trx, repository.name);
        const { createTime, ...columns } = repository;
        await trx
          .insertInto('repositories')
          .values({ ...columns, create_time: (createTime ?? now()).toISOString() })
          .execute();
      });
      return repository;
    },
    choose: async (name, zone) => {
      if (name === '') return onlyOne(await list(zone), zone);
      const repository = await find(name);
      if (repository.zone === zone) return repository;
      throw new HoldfastError(
        'ZONE_MISMATCH',
        `Repository ${repository.name} belongs to zone ${repository.zone}, not to ${zone}.`,
        { metadata: { repository: repository.name, zone } },
      );
    },
    remove: async (name) => {
      await find(name);
      await db.transaction().execute(async (trx) => {
        const backup = await trx
          .selectFrom('backups')
          .select('id')
          .where('repository', '=', name)
          .executeTakeFirst();
        if (backup !== undefined) {
          throw new HoldfastError('IN_USE', `Backups on repository ${name} are known, such as ${backup.id}.`);
        }
        const operation = await trx
          .selectFrom('operations')
          .select('id')
          .where('active', '=', 1)
          .where('repository', '=', name)
          .executeTakeFirst();
        if (operation !== undefined) {
          throw new HoldfastError('IN_USE', `Operation ${operation.id} works on repository ${name}.`);
        }
        await trx.deleteFrom('repositories').where('name', '=', name).execute();
      });
    },
  };
}

async function refuseKnown(db: Pick<Store['db'], 'selectFrom'>, name: string): Promise<void> {
  const known = await db
    .selectFrom('repositories')
    .select('name')
    .where('name', '=', name)
    .executeTakeFirst();
  if (known !== undefined) {
    throw new HoldfastError('REPOSITORY_EXISTS', `There is a repository ${name} already.`);
  }
}

function onlyOne(repositories: readonly Repository[], zone: string): Repository {
  const [first, ...others] = repositories;
  if (first === undefined) {
    throw new HoldfastError('INVALID_REQUEST', `Zone ${zone} has no repository. Add one first.`);
  }
  if (others.length > 0) {
    const names = repositories.map((each) => each.name).join(', ');
    throw new HoldfastError('INVALID_REQUEST', `Zone ${zone} has several repositories; say which: ${names}.`);
  }
  return first;
}

function parseType(type: RepositoryType): RepositoryType {
  switch (type) {
    case RepositoryType.REPOSITORY_TYPE_UNSPECIFIED:
    case RepositoryType.REPOSITORY_TYPE_LOCAL:
      return RepositoryType.REPOSITORY_TYPE_LOCAL;
    default:
      throw new HoldfastError('INVALID_REQUEST', `There is no repository type ${String(type)}.`);
  }
}

function parsePath(path: string): string {
  if (!isAbsolute(path) || path.includes('\0') || Buffer.byteLength(path) > MAX_PATH_BYTES) {
    throw new HoldfastError(
      'INVALID_REQUEST',
      `The path of the repository, ${JSON.stringify(path)}, is not an absolute path.`,
    );
  }
  const normal = normalize(path);
  return normal.length > 1 && normal.endsWith('/') ? normal.slice(0, -1) : normal;
}

function toRepository(row: {
  name: string;
  zone: string;
  type: number;
  path: string;
  create_time: string;
}): Repository {
  return {
    name: row.name,
    zone: row.zone,
    type: row.type as RepositoryType,
    path: row.path,
    createTime: new Date(row.create_time),
  };
}
