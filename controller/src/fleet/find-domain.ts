import { HoldfastError } from '@holdfast/common/errors.ts';
import type { Domain, Host } from '@holdfast/proto/holdfast/v1/host.ts';
import type { Agents } from './agents.ts';
import type { Hosts } from './hosts.ts';

/** Longer than any name that libvirt keeps. */
const MAX_DOMAIN_BYTES = 1_024;

export interface FoundDomain {
  readonly host: Host;
  readonly domain: Domain;
}

/**
 * Finds where a domain is by asking: the given host, or all hosts of the zone at once. A host that is down does not
 * hinder the others.
 *
 * @throws HoldfastError INVALID_REQUEST when the domain is missing or on several hosts, HOST_NOT_FOUND, ZONE_MISMATCH,
 *   DOMAIN_NOT_FOUND, which names hosts that could not be asked, AGENT_UNREACHABLE when none could be
 */
export async function findDomain(
  parts: { readonly hosts: Hosts; readonly agents: Agents },
  wanted: { readonly zone: string; readonly domain: string; readonly host: string },
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
  const [only, ...others] = found;
  if (only === undefined) throw notFound(wanted, asked, failures);
  if (others.length > 0) {
    const places = found.map(({ host, domain }) => `${host.name} (${domain.uuid})`).join(', ');
    throw new HoldfastError(
      'INVALID_REQUEST',
      `There is a domain ${JSON.stringify(wanted.domain)} on several hosts: ${places}. Name the host.`,
    );
  }
  return only;
}

async function askFor(
  agents: Agents,
  host: Host,
  name: string,
  correlationId: string,
): Promise<FoundDomain[]> {
  try {
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
