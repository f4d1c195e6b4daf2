import { HoldfastError } from '@holdfast/common/errors.ts';
import { HostState, type Host } from '@holdfast/proto/holdfast/v1/host.ts';
import { hasLabel } from './labels.ts';

/** What work that any host could do asks of its host. */
export interface Need {
  /** A feature that the host must have, such as repository.nfs; empty: none. */
  readonly feature: string;
  /** The label of the hosts that do such work; empty: all do. */
  readonly label: string;
  /** The host that is taken when others are as good, such as the one that took the backup; empty: none. */
  readonly preferred: string;
}

/** A host as placement sees it. */
export type PlacementHost = Pick<
  Host,
  'name' | 'drained' | 'state' | 'labels' | 'capabilities' | 'runningOperations' | 'queuedOperations'
>;

/** A host that fits, with the reason why it is the one. */
export interface Placement {
  readonly host: string;
  readonly reason: string;
}

/** The hosts that fit, best first: the one with the fewest operations, then the preferred one, then by name. */
export function fitHosts(hosts: readonly PlacementHost[], need: Need): Placement[] {
  const judged = hosts.map((host) => ({ host, unfit: unfitness(host, need) }));
  const fit = judged.filter(({ unfit }) => unfit === '').map(({ host }) => host);
  const others = judged
    .filter(({ unfit }) => unfit !== '')
    .map(({ host, unfit }) => `${host.name} ${unfit}`)
    .join(', ');
  const ordered = fit.toSorted(
    (one, other) =>
      load(one) - load(other) ||
      Number(other.name === need.preferred) - Number(one.name === need.preferred) ||
      (one.name < other.name ? -1 : 1),
  );
  return ordered.map((host) => ({
    host: host.name,
    reason: reasonFor(host, fit, need) + (others === '' ? '' : ` Not fit: ${others}.`),
  }));
}

/**
 * The error when no host fits.
 *
 * @param what the work, such as "verify the backup"
 */
export function noFitHost(
  zone: string,
  what: string,
  hosts: readonly PlacementHost[],
  need: Need,
): HoldfastError {
  if (hosts.length === 0)
    return new HoldfastError('HOST_NOT_FOUND', `Zone ${zone} has no host. Add one first.`);
  const reasons = hosts.map((host) => `${host.name} ${unfitness(host, need)}`).join(', ');
  const drained = hosts.every((host) => host.drained);
  const down = hosts.some((host) => host.state === HostState.HOST_STATE_DOWN && !host.drained);
  return new HoldfastError(
    drained ? 'HOST_DRAINED' : down ? 'AGENT_UNREACHABLE' : 'HOST_NOT_FOUND',
    `No host of zone ${zone} can ${what}: ${reasons}.`,
    { metadata: { zone } },
  );
}

function load(host: PlacementHost): number {
  return host.runningOperations + host.queuedOperations;
}

function unfitness(host: PlacementHost, { feature, label }: Need): string {
  if (host.drained) return 'is drained';
  if (host.state === HostState.HOST_STATE_DOWN) return 'does not answer';
  if (label !== '' && !hasLabel(host.labels, label)) return `lacks the label ${label}`;
  // One that has not said what it can do is given the benefit of the doubt.
  if (feature !== '' && host.capabilities?.features.includes(feature) === false) return `lacks ${feature}`;
  return '';
}

function reasonFor(host: PlacementHost, fit: readonly PlacementHost[], { preferred }: Need): string {
  const operations = load(host) === 1 ? '1 operation' : `${load(host)} operations`;
  if (fit.length === 1) return `The only host that fits, with ${operations}.`;
  if (fit.some((each) => load(each) < load(host)))
    return `Of ${fit.length} hosts that fit, the least busy that could take it, with ${operations}.`;
  const asGood = fit.filter((each) => load(each) === load(host));
  if (asGood.length === 1) return `The least busy of ${fit.length} hosts that fit, with ${operations}.`;
  const why = host.name === preferred ? 'the one that took the backup' : 'the first by name';
  return `Of ${asGood.length} least busy hosts, with ${operations}, ${why}.`;
}

/** Those that answer and are not drained come first, for a question that any host can answer. */
export function byReadiness(one: PlacementHost, other: PlacementHost): number {
  return reluctance(one) - reluctance(other);
}

function reluctance({ state, drained }: PlacementHost): number {
  return (state === HostState.HOST_STATE_DOWN ? 2 : 0) + (drained ? 1 : 0);
}
