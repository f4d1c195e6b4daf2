import pMap from 'p-map';
import { HoldfastError } from '@holdfast/common/errors.ts';
import { isUuid } from '@holdfast/common/uuid.ts';
import { sentence, type Virsh } from './virsh.ts';

/** A domain's identity. Commands name it by its UUID only: a name can look like an id or an option. */
export interface DomainId {
  /** Empty for a domain that libvirt does not know. */
  readonly uuid: string;
  readonly name: string;
}

/** Each is a process; a host can have hundreds of domains. */
export const VIRSH_AT_ONCE = 8;

/** Far above any name: a file of libvirt's is called after it. */
const MAX_NAME_BYTES = 4_096;

/** All domains that libvirt knows, running or not. */
export async function listDomains(virsh: Virsh): Promise<readonly DomainId[]> {
  const uuids = (await virsh.command(['list', '--all', '--uuid'])).split('\n').filter((line) => line !== '');
  const domains = await pMap(uuids, (uuid) => identify(virsh, uuid), { concurrency: VIRSH_AT_ONCE });
  return domains.filter((domain) => domain !== undefined);
}

/** The domain with this UUID or exactly this name; undefined when libvirt does not know it. */
export async function domainNamed(virsh: Virsh, nameOrUuid: string): Promise<DomainId | undefined> {
  // What no program can be given as an argument (execve(2)) is no domain's name either.
  if (nameOrUuid.includes('\0') || Buffer.byteLength(nameOrUuid) > MAX_NAME_BYTES) return undefined;
  const direct = await virsh.attempt(['domuuid', `--domain=${nameOrUuid}`]);
  const found = direct.exitCode === 0 ? await identify(virsh, direct.stdout.trim()) : undefined;
  if (found !== undefined && matches(found, nameOrUuid)) return found;
  // virsh takes "3" for the id 3 before it looks at names.
  return (await listDomains(virsh)).find((domain) => matches(domain, nameOrUuid));
}

/**
 * The same, of a domain that must be there.
 *
 * @throws HoldfastError DOMAIN_NOT_FOUND
 */
export async function findDomain(virsh: Virsh, nameOrUuid: string): Promise<DomainId> {
  const found = await domainNamed(virsh, nameOrUuid);
  if (found !== undefined) return found;
  throw new HoldfastError(
    'DOMAIN_NOT_FOUND',
    `There is no domain ${JSON.stringify(nameOrUuid)} on this host.`,
  );
}

/** The domain's state in libvirt's words: running, paused, shut off, crashed, pmsuspended, in shutdown, idle. */
export async function domainState(virsh: Virsh, uuid: string): Promise<string> {
  return (await virsh.command(['domstate', uuid])).trim();
}

/** The same; `gone` for a domain that libvirt does not know any more, such as a transient one that has ended. */
export async function stateOrGone(virsh: Virsh, uuid: string): Promise<string> {
  const { exitCode, stdout, stderr } = await virsh.attempt(['domstate', uuid]);
  if (exitCode === 0) return stdout.trim();
  if (/domain not found|no domain with/i.test(stderr)) return 'gone';
  throw new HoldfastError('LIBVIRT_FAILED', `virsh domstate: ${sentence(stderr)}`);
}

/**
 * The same for a domain that libvirt need not know: an orchestrator may define its domains anew at each start, so one that
 * is unknown is shut off.
 */
export async function stateNow(virsh: Virsh, { uuid, name }: DomainId): Promise<string> {
  if (uuid !== '') return domainState(virsh, uuid);
  const known = await domainNamed(virsh, name);
  return known === undefined ? 'shut off' : domainState(virsh, known.uuid);
}

function matches(domain: DomainId, nameOrUuid: string): boolean {
  return (
    domain.name === nameOrUuid ||
    (isUuid(nameOrUuid.toLowerCase()) && domain.uuid === nameOrUuid.toLowerCase())
  );
}

async function identify(virsh: Virsh, uuid: string): Promise<DomainId | undefined> {
  const result = await virsh.attempt(['domname', uuid]);
  // It may have gone since it was listed.
  return result.exitCode === 0 ? { uuid, name: result.stdout.replace(/\n+$/, '') } : undefined;
}
