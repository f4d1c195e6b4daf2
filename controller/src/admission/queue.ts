/** An operation that has not begun. */
export interface Waiting {
  readonly id: string;
  readonly createTimeMs: number;
  /** The domain that it is about, by UUID: turns go round between domains. */
  readonly domain: string;
  readonly repository: string;
  /** The hosts that can do the work, one alone when it is bound to it. The least busy is taken, the first of as busy ones. */
  readonly hosts: readonly string[];
  /** Whether nobody waits for it, and it for all others. */
  readonly background: boolean;
}

/** An operation that has a slot. */
export interface Running {
  readonly domain: string;
  readonly repository: string;
  readonly host: string;
  readonly background: boolean;
}

/** How many operations may run at a time; 0 is any number. */
export interface Limits {
  readonly perHost: number;
  readonly perRepository: number;
  readonly perZone: number;
}

/** Why a host takes no new work now. */
export type Closed = 'down' | 'drained';

/** What an operation waits for. */
export interface Wait {
  readonly for: 'host' | 'repository' | 'zone' | 'turn' | Closed;
  /** Its name. */
  readonly subject: string;
}

/** What became of those that waited. */
export interface Turn {
  /** May begin, each on a host, in the order in which it is their turn. */
  readonly admitted: readonly { readonly id: string; readonly host: string }[];
  /** In the order in which it will be their turn. */
  readonly waiting: readonly { readonly id: string; readonly wait: Wait }[];
}

/** Who has waited for so long is not overtaken any more: what it needs is kept for it. */
export const PATIENCE_MS = 10 * 60_000;

/**
 * Decides which operations of a zone may begin. It is the turn of the one whose domain has the fewest before it, running ones
 * included, then of the oldest. One for which there is no slot lets those behind it pass, until it has waited for long.
 *
 * Those in the background come after all others, and begin only in a slot that is free. They take none away: another one
 * begins as if they did not run.
 */
export function takeTurns(given: {
  readonly zone: string;
  readonly running: readonly Running[];
  readonly waiting: readonly Waiting[];
  readonly limits: Limits;
  readonly closed: ReadonlyMap<string, Closed>;
  readonly nowMs: number;
}): Turn {
  const { zone, limits, closed, nowMs } = given;
  const slots = countSlots(limits);
  const admitted: { id: string; host: string }[] = [];
  const waiting: { id: string; wait: Wait }[] = [];
  const decide = (operation: Waiting): void => {
    const { id, repository, background } = operation;
    const [host] = operation.hosts
      .filter((each) => !closed.has(each) && slots.has('host', each))
      .toSorted((one, other) => slots.taken('host', one) - slots.taken('host', other));
    const wait = waitOf(operation, host, { zone, slots, closed });
    if (host !== undefined && wait === undefined) {
      takeSlots(slots, { host, repository });
      admitted.push({ id, host });
      return;
    }
    waiting.push({ id, wait: wait ?? { for: 'turn', subject: zone } });
    const open = operation.hosts.find((each) => !closed.has(each));
    if (background || nowMs - operation.createTimeMs < PATIENCE_MS || open === undefined) return;
    // What it could have is kept for it, what it cannot have yet goes to nobody before it.
    slots.keep('host', host ?? open);
    slots.keep('repository', repository);
    slots.keep('zone', '');
  };
  for (const background of [false, true]) {
    const running = given.running.filter((each) => each.background === background);
    for (const each of running) takeSlots(slots, each);
    const next = given.waiting.filter((each) => each.background === background);
    for (const operation of inOrder(next, running)) decide(operation);
  }
  return { admitted, waiting };
}

function takeSlots(slots: Slots, { host, repository }: Pick<Running, 'host' | 'repository'>): void {
  slots.take('host', host);
  slots.take('repository', repository);
  slots.take('zone', '');
}

/** Round and round between domains, so that one with many operations keeps no other waiting. */
function inOrder(waiting: readonly Waiting[], running: readonly Running[]): Waiting[] {
  const before = new Map<string, number>();
  const next = (domain: string): number => {
    const count = before.get(domain) ?? 0;
    before.set(domain, count + 1);
    return count;
  };
  for (const { domain } of running) next(domain);
  return waiting
    .toSorted(byAge)
    .map((operation) => ({ operation, round: next(operation.domain) }))
    .toSorted((one, other) => one.round - other.round)
    .map(({ operation }) => operation);
}

function byAge(one: Waiting, other: Waiting): number {
  return one.createTimeMs - other.createTimeMs || (one.id < other.id ? -1 : 1);
}

function waitOf(
  { hosts, repository }: Waiting,
  host: string | undefined,
  { zone, slots, closed }: { zone: string; slots: Slots; closed: ReadonlyMap<string, Closed> },
): Wait | undefined {
  const [first = ''] = hosts;
  const open = hosts.find((each) => !closed.has(each));
  if (open === undefined) return { for: closed.get(first) ?? 'down', subject: first };
  if (host === undefined) return { for: slots.isKept('host', open) ? 'turn' : 'host', subject: open };
  if (!slots.has('repository', repository))
    return { for: slots.isKept('repository', repository) ? 'turn' : 'repository', subject: repository };
  if (!slots.has('zone', '')) return { for: slots.isKept('zone', '') ? 'turn' : 'zone', subject: zone };
  return undefined;
}

type Kind = 'host' | 'repository' | 'zone';

interface Slots {
  has(kind: Kind, name: string): boolean;
  taken(kind: Kind, name: string): number;
  take(kind: Kind, name: string): void;
  /** Takes one for an operation that cannot begin yet. */
  keep(kind: Kind, name: string): void;
  /** Whether there would be one, had none been kept. */
  isKept(kind: Kind, name: string): boolean;
}

function countSlots(limits: Limits): Slots {
  const limitOf = { host: limits.perHost, repository: limits.perRepository, zone: limits.perZone };
  const taken = new Map<string, number>();
  const kept = new Map<string, number>();
  const add = (counts: Map<string, number>, kind: Kind, name: string): void => {
    const key = `${kind} ${name}`;
    counts.set(key, (counts.get(key) ?? 0) + 1);
  };
  const used = (counts: Map<string, number>, kind: Kind, name: string): number =>
    counts.get(`${kind} ${name}`) ?? 0;
  const fits = (kind: Kind, count: number): boolean => limitOf[kind] === 0 || count < limitOf[kind];
  return {
    has: (kind, name) => fits(kind, used(taken, kind, name) + used(kept, kind, name)),
    taken: (kind, name) => used(taken, kind, name),
    take: (kind, name) => {
      add(taken, kind, name);
    },
    keep: (kind, name) => {
      add(kept, kind, name);
    },
    isKept: (kind, name) => fits(kind, used(taken, kind, name)),
  };
}
