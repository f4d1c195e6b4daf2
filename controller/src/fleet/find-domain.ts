import { HoldfastError } from '@holdfast/common/errors.ts';
import { HostState, type Domain, type Host } from '@holdfast/proto/holdfast/v1/host.ts';
import type { Agents } from './agents.ts';
import type { Hosts } from './hosts.ts';
import { fitHosts, noFitHost } from './placement.ts';

/** Longer than any name that libvirt keeps. */
const MAX_DOMAIN_BYTES = 1_024;
/** A host that did not answer lately gets this long to take a connection, so that it holds up nobody. */
const DOWN_DEADLINE_MS = 2_000;
const SHUT_OFF = 'shut off';

export interface FoundDomain {
  readonly host: Host;
  readonly domain: Domain;
  /** Why it is this host, for people. */
  readonly reason: string;
}

/**
 * Finds where a domain is by asking: the given host, or all hosts of the zone at once. A host that is down does not
 * hinder the others. A domain that several hosts know, as after a migration, is where it runs; one that is shut off on all of
 * them, whose images all of them see as they are, can be read by any: the least busy one does.
 *
 * @param wanted `host` empty: anywhere; `present`: where it was chosen before, which is where one that is shut off stays as long as
 *   that host knows it and may work
 * @throws HoldfastError INVALID_REQUEST when the domain is missing, or several are meant, HOST_NOT_FOUND, ZONE_MISMATCH,
 *   DOMAIN_NOT_FOUND, which names hosts that could not be asked, AGENT_UNREACHABLE when none could be, HOST_DRAINED,
 *   DOMAIN_STATE when it is active on several hosts, as in the middle of a migration
 */
export async function findDomain(
  parts: { readonly hosts: Hosts; readonly agents: Agents },
  wanted: {
    readonly zone: string;
    readonly domain: string;
    readonly host: string;
    readonly present?: string;
  },
  correlationId: string,
): Promise<FoundDomain> {
  if (wanted.domain.trim() === '' || Buffer.byteLength(wanted.domain) > MAX_DOMAIN_BYTES) {
    throw new HoldfastError(
      'INVALID_REQUEST',
      `The domain is missing or longer than ${MAX_DOMAIN_BYTES} bytes; give its name or UUID.`,
    );
  }
  const asked =
    wanted.host === ''
      ? await parts.hosts.list(wanted.zone)
      : [await parts.hosts.findInZone(wanted.host, wanted.zone)];
  const answers = await Promise.allSettled(
    asked.map((host) => askFor(parts.agents, host, wanted.domain, correlationId)),
  );
  const found = answers.flatMap((answer) => (answer.status === 'fulfilled' ? answer.value : []));
  const failures = answers.flatMap((answer): unknown[] =>
    answer.status === 'rejected' ? [answer.reason] : [],
  );
  if (found.length === 0) throw notFound(wanted, asked, failures);
  const place = await chooseWhere(parts.hosts, wanted, found);
  if (!place.host.drained) return place;
  throw new HoldfastError(
    'HOST_DRAINED',
    `Domain ${JSON.stringify(place.domain.name)} is on host ${place.host.name}, which is drained and takes no new work. ` +
      'End the drain, or move the domain.',
    { metadata: { host: place.host.name, domain: place.domain.name } },
  );
}

type Place = Omit<FoundDomain, 'reason'>;

/** The one that is meant. */
async function chooseWhere(
  hosts: Hosts,
  { zone, domain: name, host: named, present }: Parameters<typeof findDomain>[1],
  found: readonly Place[],
): Promise<FoundDomain> {
  const [first, ...others] = found;
  if (first === undefined) throw new TypeError('nothing was found');
  if (others.length === 0) return { ...first, reason: reasonFor(first, found, named !== '') };
  const places = found.map(({ host, domain }) => `${host.name} (${domain.uuid}, ${domain.state})`).join(', ');
  if (others.some(({ domain }) => domain.uuid !== first.domain.uuid)) {
    throw new HoldfastError(
      'INVALID_REQUEST',
      `There is a domain ${JSON.stringify(name)} on several hosts: ${places}. Name the host.`,
    );
  }
  const active = found.filter(({ domain }) => domain.state !== SHUT_OFF);
  const [running, ...more] = active;
  if (running !== undefined && more.length === 0)
    return { ...running, reason: reasonFor(running, found, false) };
  if (running !== undefined) {
    throw new HoldfastError(
      'DOMAIN_STATE',
      `Domain ${JSON.stringify(name)} is active on several hosts, as in the middle of a migration: ${places}. Try again later.`,
      { metadata: { domain: name } },
    );
  }
  const still = found.find(({ host }) => host.name === present && !host.drained);
  if (still !== undefined) return { ...still, reason: reasonFor(still, found, false) };
  if (!others.every(({ domain }) => haveSameSources(first.domain, domain))) {
    throw new HoldfastError(
      'INVALID_REQUEST',
      `Domain ${JSON.stringify(name)} is shut off, and known to several hosts: ${places}. That its disks are the same there cannot ` +
        'be told. Name the host, and see to it that it is started on no other one meanwhile.',
    );
  }
  return leastBusy(zone, await hosts.withOperations(found.map(({ host }) => host)), found);
}

/** Whether two hosts see the same images in the same state: also a start on another host is noticed by what it writes, then. */
function haveSameSources(one: Domain, other: Domain): boolean {
  const [ones, others] = [one, other].map(({ disks }) => disks.filter(({ device }) => device === 'disk'));
  if (ones === undefined || others === undefined) return false;
  return (
    ones.length > 0 &&
    ones.length === others.length &&
    ones.every(({ target, source, sourceState }) => {
      const twin = others.find((disk) => disk.target === target);
      return sourceState !== '' && twin?.source === source && twin.sourceState === sourceState;
    })
  );
}

function leastBusy(zone: string, hosts: readonly Host[], found: readonly Place[]): FoundDomain {
  const need = { feature: '', label: '', preferred: '' };
  const [best] = fitHosts(hosts, need);
  const place = found.find(({ host }) => host.name === best?.host);
  if (best === undefined || place === undefined) throw noFitHost(zone, 'read its disks', hosts, need);
  const names = hosts.map(({ name }) => name).join(', ');
  return { ...place, reason: `The domain is shut off and known to ${names}. ${best.reason}` };
}

function reasonFor({ host, domain }: Place, found: readonly Place[], named: boolean): string {
  const runs = domain.state === SHUT_OFF ? 'is known to' : 'runs on';
  const others = found.filter((each) => each.host !== host).map((each) => each.host.name);
  const besides = others.length === 0 ? '' : ` It is shut off on ${others.join(', ')}.`;
  const why = named ? 'The request names it, and the' : 'The';
  return `${why} domain ${runs} ${host.name}.${besides}`;
}

async function askFor(agents: Agents, host: Host, name: string, correlationId: string): Promise<Place[]> {
  try {
    if (host.state === HostState.HOST_STATE_DOWN) await agents.ready(host, DOWN_DEADLINE_MS);
    const answer = await agents.getHost(host, name, correlationId);
    if (answer.zone !== host.zone) {
      throw new HoldfastError(
        'ZONE_MISMATCH',
        `The agent of host ${host.name} says that it belongs to zone ${JSON.stringify(answer.zone)}, not to ${host.zone}.`,
      );
    }
    const domain = answer.domains.find((each) => each.name === name || each.uuid === name.toLowerCase());
    return domain === undefined ? [] : [{ host, domain }];
  } catch (error) {
    if (error instanceof HoldfastError && error.reason === 'DOMAIN_NOT_FOUND') return [];
    throw error;
  }
}

function notFound(
  wanted: { readonly zone: string; readonly domain: string; readonly host: string },
  asked: readonly Host[],
  failures: readonly unknown[],
): unknown {
  // When nobody could answer, the reason why is the better error.
  if (asked.length > 0 && failures.length === asked.length) return failures[0];
  const where = wanted.host === '' ? `on any host of zone ${wanted.zone}` : `on host ${wanted.host}`;
  const silent = failures.map((failure) => (failure instanceof Error ? ` ${failure.message}` : '')).join('');
  const hint =
    asked.length === 0 ? ' The zone has no host; add one first.' : silent && ` Not asked:${silent}`;
  return new HoldfastError(
    'DOMAIN_NOT_FOUND',
    `There is no domain ${JSON.stringify(wanted.domain)} ${where}.${hint}`,
    { metadata: { domain: wanted.domain } },
  );
}
