import { toStatus } from '@holdfast/common/errors.ts';
import type { FindLeftoversResponse } from '@holdfast/proto/holdfast/agent/v1/agent.ts';
import type { Host } from '@holdfast/proto/holdfast/v1/host.ts';
import {
  LeftoverState,
  type Leftover,
  type LeftoverProblem,
  type ListLeftoversResponse,
} from '@holdfast/proto/holdfast/v1/leftover.ts';
import type { Repository } from '@holdfast/proto/holdfast/v1/repository.ts';
import type { Agents } from '../fleet/agents.ts';
import type { Hosts } from '../fleet/hosts.ts';
import type { Repositories } from '../fleet/repositories.ts';
import type { Store } from '../store/store.ts';
import { judge } from './judge.ts';

const { LEFTOVER_STATE_REMOVABLE, LEFTOVER_STATE_UNDECIDED } = LeftoverState;

/** Where to look: at one host, in one repository, or everywhere, of one zone or of all. Empty fields are not given. */
export interface Scope {
  readonly zone: string;
  readonly host: string;
  readonly repository: string;
}

/** What interrupted work has left on hosts and in repositories. */
export interface Leftovers {
  /**
   * Asks all places at once. One that does not answer is told as a problem and holds up no other.
   *
   * @throws HoldfastError ZONE_NOT_FOUND, HOST_NOT_FOUND, REPOSITORY_NOT_FOUND, ZONE_MISMATCH
   */
  list(scope: Scope, correlationId: string): Promise<ListLeftoversResponse>;
  /** Removes what list says to be removable, on hosts first: what still writes to a repository is gone then. */
  remove(scope: Scope, correlationId: string): Promise<ListLeftoversResponse>;
}

/** What a place answered. */
interface Place {
  readonly leftovers: readonly Leftover[];
  readonly problems: readonly LeftoverProblem[];
}

export interface LeftoverParts {
  readonly store: Store;
  readonly hosts: Hosts;
  readonly agents: Agents;
  readonly repositories: Repositories;
  readonly now: () => Date;
}

export function createLeftovers(parts: LeftoverParts): Leftovers {
  const { hosts, agents, repositories, now } = parts;

  /** Each host is asked once, however many want to know. */
  const lookerFor = (correlationId: string): ((host: Host) => Promise<FindLeftoversResponse>) => {
    const asked = new Map<string, Promise<FindLeftoversResponse>>();
    return (host) => {
      const known =
        asked.get(host.name) ??
        agents.findLeftovers(host, { zone: host.zone, repository: undefined }, correlationId);
      asked.set(host.name, known);
      return known;
    };
  };
  const decide = async (
    found: readonly Leftover[],
    look: (host: Host) => Promise<FindLeftoversResponse>,
  ): Promise<readonly Leftover[]> => {
    const known = await hosts.list('');
    return await Promise.all(
      found.map(async (each) =>
        each.state === LEFTOVER_STATE_UNDECIDED
          ? await judge(parts.store.db, each, { hosts: known, look, now: now() })
          : each,
      ),
    );
  };
  const lookAtHost = async (host: Host, correlationId: string): Promise<Place> =>
    await telling({ host: host.name, repository: '' }, async () => {
      const look = lookerFor(correlationId);
      const { leftovers, problems } = await look(host);
      const named = leftovers.map((each) => ({ ...each, host: host.name }));
      return {
        leftovers: await decide(named, look),
        problems: problems.map((error) => ({ host: host.name, repository: '', error })),
      };
    });
  const lookIn = async (repository: Repository, correlationId: string): Promise<Place> =>
    await telling({ host: '', repository: repository.name }, async () => {
      const found = await repositories.findLeftovers(repository, correlationId);
      const decided = await decide(found, lookerFor(correlationId));
      if (decided.length === 0) return { leftovers: decided, problems: [] };
      // What has got its final name meanwhile is no leftover.
      const still = await repositories.findLeftovers(repository, correlationId);
      return {
        leftovers: decided.filter((each) => still.some((other) => isSame(each, other))),
        problems: [],
      };
    });

  return {
    list: async (scope, correlationId) => {
      const places = await placesOf(parts, scope);
      const [onHosts, inRepositories] = await Promise.all([
        together(places.hosts.map((host) => lookAtHost(host, correlationId))),
        together(places.repositories.map((repository) => lookIn(repository, correlationId))),
      ]);
      return joined([onHosts, inRepositories]);
    },
    remove: async (scope, correlationId) => {
      const places = await placesOf(parts, scope);
      const onHosts = await together(
        places.hosts.map(async (host) => {
          const before = await lookAtHost(host, correlationId);
          return await removing(before, { host: host.name, repository: '' }, async (leftovers) => {
            const inZone = await repositories.list(host.zone);
            const refs = await Promise.all(inZone.map((repository) => repositories.ref(repository)));
            const request = { zone: host.zone, repository: undefined, leftovers, repositories: refs };
            const answer = await agents.removeLeftovers(host, request, correlationId);
            return answer.leftovers.map((each) => ({ ...each, host: host.name }));
          });
        }),
      );
      const inRepositories = await together(
        places.repositories.map(async (repository) => {
          const before = await lookIn(repository, correlationId);
          const place = { host: '', repository: repository.name };
          return await removing(before, place, (leftovers) =>
            repositories.removeLeftovers(repository, leftovers, correlationId),
          );
        }),
      );
      return joined([onHosts, inRepositories]);
    },
  };
}

async function placesOf(
  { hosts, repositories }: LeftoverParts,
  { zone, host, repository }: Scope,
): Promise<{ readonly hosts: readonly Host[]; readonly repositories: readonly Repository[] }> {
  if (host === '' && repository === '')
    return { hosts: await hosts.list(zone), repositories: await repositories.list(zone) };
  const ofZone = async (name: string): Promise<Host> =>
    zone === '' ? await hosts.find(name) : await hosts.findInZone(name, zone);
  const inZone = async (name: string): Promise<Repository> =>
    zone === '' ? await repositories.find(name) : await repositories.choose(name, zone);
  return {
    hosts: host === '' ? [] : [await ofZone(host)],
    repositories: repository === '' ? [] : [await inZone(repository)],
  };
}

/** Has those that can be removed removed, and tells what became of all. */
async function removing(
  before: Place,
  place: Omit<LeftoverProblem, 'error'>,
  remove: (leftovers: Leftover[]) => Promise<readonly Leftover[]>,
): Promise<Place> {
  const removable = before.leftovers.filter((each) => each.state === LEFTOVER_STATE_REMOVABLE);
  if (removable.length === 0) return before;
  const after = await telling(place, async () => ({ leftovers: await remove(removable), problems: [] }));
  // What went away by itself meanwhile is not answered for.
  const gone = removable.filter(
    (each) => after.problems.length === 0 && !after.leftovers.some((other) => isSame(each, other)),
  );
  return {
    leftovers: before.leftovers
      .filter((each) => !gone.includes(each))
      .map((each) => after.leftovers.find((other) => isSame(each, other)) ?? each),
    problems: [...before.problems, ...after.problems],
  };
}

function isSame(one: Leftover, other: Leftover): boolean {
  return one.kind === other.kind && one.name === other.name;
}

async function telling(place: Omit<LeftoverProblem, 'error'>, ask: () => Promise<Place>): Promise<Place> {
  try {
    return await ask();
  } catch (error) {
    return { leftovers: [], problems: [{ ...place, error: toStatus(error) }] };
  }
}

async function together(places: readonly Promise<Place>[]): Promise<Place> {
  return joined(await Promise.all(places));
}

function joined(places: readonly Place[]): { leftovers: Leftover[]; problems: LeftoverProblem[] } {
  return {
    leftovers: places.flatMap(({ leftovers }) => [...leftovers]),
    problems: places.flatMap(({ problems }) => [...problems]),
  };
}
