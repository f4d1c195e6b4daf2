import { randomUUID } from 'node:crypto';
import type { Selectable } from 'kysely';
import { HoldfastError } from '@holdfast/common/errors.ts';
import type { Reason } from '@holdfast/common/reasons.ts';
import { parseRepositoryPlace } from '@holdfast/common/repository.ts';
import type {
  FindKeyFilesRequest,
  FindKeyFilesResponse,
  GetRepositoryStatsResponse,
  RepositoryRef,
  ScannedFolder,
  WriteKeyFilesRequest,
} from '@holdfast/proto/holdfast/agent/v1/agent.ts';
import type { OperationEvent } from '@holdfast/proto/holdfast/v1/event.ts';
import type { Host } from '@holdfast/proto/holdfast/v1/host.ts';
import type { Leftover } from '@holdfast/proto/holdfast/v1/leftover.ts';
import {
  RepositoryCredentials,
  RepositoryState,
  type RepositoryHealth,
  type RepositoryType,
  type AddRepositoryRequest,
  type Repository,
} from '@holdfast/proto/holdfast/v1/repository.ts';
import type { Tables } from '../store/schema.ts';
import type { Store } from '../store/store.ts';
import { parseName } from '../zones/name.ts';
import type { Zones } from '../zones/zones.ts';
import type { Agents } from './agents.ts';
import { createHealth } from './health.ts';
import type { Hosts } from './hosts.ts';
import { byReadiness } from './placement.ts';

/** Where backups lie. */
export interface Repositories {
  /**
   * Adds a repository after a host of the zone has mounted it, proved that it can write to it, and read or made its id.
   *
   * @throws HoldfastError ZONE_NOT_FOUND, NAME_INVALID, INVALID_REQUEST, HOST_NOT_FOUND when the zone has no host,
   *   AGENT_UNREACHABLE, REPOSITORY_EXISTS, and what the agent finds wrong with it (REPOSITORY_UNUSABLE, ...)
   */
  add(given: AddRepositoryRequest, correlationId: string): Promise<Repository>;
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
  /** The repository in the form that agents take, with its credentials. @throws HoldfastError REPOSITORY_NOT_FOUND */
  ref(repository: Repository): Promise<RepositoryRef>;
  /**
   * Its space, in bytes, as the first host of its zone sees it that answers and to which it answers. A host for which it
   * is known to be stalled is not asked.
   *
   * @throws HoldfastError REPOSITORY_STALLED when it answers no host, and as add
   */
  stats(repository: Repository, correlationId: string): Promise<GetRepositoryStatsResponse>;
  /** Whether it answers a host of its zone; undefined when that says neither. It takes as long as the host waits for it. */
  look(
    name: string,
    host: Host,
    correlationId: string,
  ): Promise<{ readonly stalledSince: Date | undefined } | undefined>;
  /** What is unfinished in it, as the first host of its zone that answers sees it. @throws as stats */
  findLeftovers(repository: Repository, correlationId: string): Promise<readonly Leftover[]>;
  /** Removes some of that. @returns what became of each @throws as stats */
  removeLeftovers(
    repository: Repository,
    leftovers: readonly Leftover[],
    correlationId: string,
  ): Promise<readonly Leftover[]>;
  /**
   * What lies in it, batch by batch, as the first host of its zone that answers reads it. Ends with an error when the
   * signal aborts. @throws as stats
   */
  scan(
    repository: Repository,
    correlationId: string,
    signal: AbortSignal,
  ): AsyncGenerator<readonly ScannedFolder[], void, undefined>;
  /** Finds key files in it: of backups that any of the keys opens, or those of zones. @throws as stats */
  findKeyFiles(
    repository: Repository,
    wanted: Pick<FindKeyFilesRequest, 'keyIds' | 'zoneKeys'>,
    correlationId: string,
  ): Promise<FindKeyFilesResponse>;
  /**
   * Writes and removes key files in it, as a controller with this epoch.
   *
   * @returns the folders of backups that are not there
   * @throws HoldfastError STALE_EPOCH when one with a newer epoch has written some, and as stats
   */
  writeKeyFiles(
    repository: Repository,
    fencingEpoch: bigint,
    files: Partial<Pick<WriteKeyFilesRequest, 'zoneKeys' | 'replacedZoneKeys' | 'backups'>>,
    correlationId: string,
  ): Promise<readonly string[]>;
  /**
   * Has it mounted with other credentials from now on, after a host of its zone has done so and found its id.
   *
   * @throws HoldfastError as find, INVALID_REQUEST without credentials and for one that takes none, REPOSITORY_MISMATCH, and
   *   as add
   */
  setCredentials(
    name: string,
    credentials: RepositoryCredentials | undefined,
    correlationId: string,
  ): Promise<Repository>;
  /** Notes what an event of a host's job says of a repository. */
  noteEvent(repository: string, host: string, event: OperationEvent): void;
  /** @throws HoldfastError as find, IN_USE while backups or running operations refer to it */
  remove(name: string): Promise<void>;
}

export function createRepositories(parts: {
  store: Store;
  zones: Zones;
  hosts: Hosts;
  agents: Agents;
  now: () => Date;
  stopping: AbortSignal;
}): Repositories {
  const { store, zones, hosts, agents, now, stopping } = parts;
  const { db } = store;

  const list: Repositories['list'] = async (zone) => {
    if (zone !== '') await zones.require(zone);
    const all = db.selectFrom('repositories').selectAll().orderBy('name');
    const rows = await (zone === '' ? all : all.where('zone', '=', zone)).execute();
    return rows.map((row) => ({ ...toRepository(row), health: health.of(row.name) }));
  };
  const find: Repositories['find'] = async (name) => {
    if (name === '') throw new HoldfastError('INVALID_REQUEST', 'The repository is missing.');
    const row = await db.selectFrom('repositories').selectAll().where('name', '=', name).executeTakeFirst();
    if (row === undefined) throw notFound(name);
    return { ...toRepository(row), health: health.of(name) };
  };
  const ref: Repositories['ref'] = async (repository) => {
    const { credentials_sealed: sealed } = await db
      .selectFrom('repositories')
      .select('credentials_sealed')
      .where('name', '=', repository.name)
      .executeTakeFirstOrThrow();
    const identity = credentialsIdentity(repository.name);
    const credentials = sealed && RepositoryCredentials.decode(store.sealer.open(sealed, identity));
    return refOf(repository, credentials ?? undefined);
  };
  /**
   * Asks the hosts of the zone, one after the other, until one answers and the repository answers it; those that are down
   * last.
   */
  const askZone = async <Answer>(zone: string, ask: (host: Host) => Promise<Answer>): Promise<Answer> => {
    const candidates = (await hosts.list(zone)).toSorted(byReadiness);
    let failure: HoldfastError | undefined;
    for (const host of candidates) {
      try {
        return await ask(host);
      } catch (error) {
        if (!(error instanceof HoldfastError) || !ELSEWHERE.includes(error.reason)) throw error;
        // That it is stalled says more of it than that an agent is away.
        if (failure?.reason !== 'REPOSITORY_STALLED') failure = error;
      }
    }
    throw (
      failure ??
      new HoldfastError(
        'HOST_NOT_FOUND',
        `Zone ${zone} has no host that could look at the repository. Add a host first.`,
      )
    );
  };
  const ask = async (
    repository: Repository,
    host: Host,
    correlationId: string,
  ): Promise<GetRepositoryStatsResponse> => {
    const request = { zone: repository.zone, repository: await ref(repository) };
    const askedTime = now();
    try {
      const answer = await agents.getRepositoryStats(host, request, correlationId);
      health.note(repository.name, host.name, undefined);
      return answer;
    } catch (error) {
      if (error instanceof HoldfastError) health.note(repository.name, host.name, error, askedTime);
      throw error;
    }
  };
  /** Has a host of the zone mount a repository afresh and write to it. @returns what its id file says */
  const prepare = async (
    repository: Repository,
    credentials: RepositoryCredentials | undefined,
    correlationId: string,
  ): Promise<string> => {
    const { zone } = repository;
    const request = { zone, repository: refOf(repository, credentials) };
    const { repositoryId } = await askZone(zone, (host) =>
      agents.prepareRepository(host, request, correlationId),
    );
    return repositoryId;
  };
  const seal = (name: string, credentials: RepositoryCredentials) =>
    store.sealer.seal(RepositoryCredentials.encode(credentials).finish(), credentialsIdentity(name));
  const health = createHealth({
    now,
    stopping,
    ask: async (name, host) => {
      await ask(await find(name), await hosts.find(host), randomUUID());
    },
  });

  return {
    list,
    find,
    ref,
    stats: (repository, correlationId) =>
      askZone(repository.zone, async (host) => {
        const known = health.of(repository.name).find((each) => each.host === host.name);
        if (known?.state === RepositoryState.REPOSITORY_STATE_STALLED) throw stalled(repository, known);
        return ask(repository, host, correlationId);
      }),
    look: async (name, host, correlationId) => {
      const askedTime = now();
      try {
        await ask(await find(name), host, correlationId);
        return { stalledSince: undefined };
      } catch (error) {
        return error instanceof HoldfastError && error.reason === 'REPOSITORY_STALLED'
          ? { stalledSince: askedTime }
          : undefined;
      }
    },
    noteEvent: (name, host, event) => {
      health.noteEvent(name, host, event);
    },
    scan: async function* (repository, correlationId, signal) {
      const { zone } = repository;
      const request = { zone, repository: await ref(repository) };
      // The first batch says whether a host can; another one cannot go on in the middle.
      const { scan, first } = await askZone(zone, async (host) => {
        const batches = agents.scanRepository(host, request, correlationId, signal);
        return { scan: batches, first: await batches.next() };
      });
      try {
        if (first.done !== true) yield first.value.folders;
        for await (const { folders } of scan) yield folders;
      } finally {
        await scan.return();
      }
    },
    findLeftovers: async (repository, correlationId) => {
      const request = { zone: repository.zone, repository: await ref(repository) };
      const { leftovers } = await askZone(repository.zone, (host) =>
        agents.findLeftovers(host, request, correlationId),
      );
      return leftovers;
    },
    removeLeftovers: async (repository, leftovers, correlationId) => {
      const { zone } = repository;
      const request = { zone, repository: await ref(repository), leftovers, repositories: [] };
      const answer = await askZone(zone, (host) => agents.removeLeftovers(host, request, correlationId));
      return answer.leftovers;
    },
    findKeyFiles: async (repository, wanted, correlationId) => {
      const request = { zone: repository.zone, repository: await ref(repository), ...wanted };
      return await askZone(repository.zone, (host) => agents.findKeyFiles(host, request, correlationId));
    },
    writeKeyFiles: async (repository, fencingEpoch, files, correlationId) => {
      const { zone } = repository;
      const none = { zoneKeys: [], replacedZoneKeys: [], backups: [] };
      const request = { zone, repository: await ref(repository), fencingEpoch, ...none, ...files };
      const answer = await askZone(zone, (host) => agents.writeKeyFiles(host, request, correlationId));
      return answer.missingPaths;
    },
    add: async (given, correlationId) => {
      await zones.require(given.zone);
      const createTime = now();
      const wanted: Repository = {
        name: parseName('repository', given.name),
        zone: given.zone,
        createTime,
        repositoryId: '',
        health: [],
        ...parseRepositoryPlace(given),
      };
      const { name, zone, type, path, address, mountOptions } = wanted;
      await refuseKnown(db, name);
      const repositoryId = await prepare(wanted, given.credentials, correlationId);
      const sealed = given.credentials && seal(name, given.credentials);
      await store.transact(async (trx) => {
        await refuseKnown(trx, name);
        await trx
          .insertInto('repositories')
          .values({
            ...{ name, zone, type, path, address },
            mount_options: JSON.stringify(mountOptions),
            repository_id: repositoryId,
            credentials_sealed: sealed ?? null,
            create_time: createTime.toISOString(),
            ...{ scrub_failures: 0, scrub_rest_until: null, scrub_message: '' },
          })
          .execute();
      });
      return { ...wanted, repositoryId };
    },
    setCredentials: async (name, credentials, correlationId) => {
      const repository = await find(name);
      if (credentials === undefined)
        throw new HoldfastError('INVALID_REQUEST', `The credentials of repository ${name} are missing.`);
      parseRepositoryPlace({ ...repository, credentials });
      await prepare(repository, credentials, correlationId);
      const { numUpdatedRows } = await db
        .updateTable('repositories')
        .set({ credentials_sealed: seal(name, credentials) })
        .where('name', '=', name)
        .where('repository_id', '=', repository.repositoryId)
        .executeTakeFirst();
      if (numUpdatedRows === 0n) throw notFound(name);
      return find(name);
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
      await store.transact(async (trx) => {
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
        await trx.deleteFrom('key_files').where('repository', '=', name).execute();
        await trx.deleteFrom('repositories').where('name', '=', name).execute();
      });
      health.forget(name);
    },
  };
}

/** Another host may fare better. */
const ELSEWHERE: readonly Reason[] = ['AGENT_UNREACHABLE', 'REPOSITORY_STALLED'];

function stalled(repository: Repository, { host, since }: RepositoryHealth): HoldfastError {
  return new HoldfastError(
    'REPOSITORY_STALLED',
    `Repository ${repository.name} has not answered host ${host} since ${since?.toISOString() ?? 'some time'}. Is the NAS up?`,
    { metadata: { repository: repository.name, host } },
  );
}

function notFound(name: string): HoldfastError {
  return new HoldfastError('REPOSITORY_NOT_FOUND', `There is no repository ${JSON.stringify(name)}.`, {
    metadata: { repository: name },
  });
}

function refOf(repository: Repository, credentials: RepositoryCredentials | undefined): RepositoryRef {
  const { name, type, path, address, mountOptions, repositoryId } = repository;
  return { name, type, path, address, mountOptions, repositoryId, credentials };
}

function credentialsIdentity(name: string): string {
  return `repositories.credentials:${name}`;
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

function toRepository(row: Selectable<Tables['repositories']>): Repository {
  return {
    name: row.name,
    zone: row.zone,
    type: row.type as RepositoryType,
    path: row.path,
    address: row.address,
    mountOptions: JSON.parse(row.mount_options) as string[],
    repositoryId: row.repository_id,
    createTime: new Date(row.create_time),
    health: [],
  };
}
