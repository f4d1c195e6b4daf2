import { HoldfastError } from '@holdfast/common/errors.ts';
import type { TakeBackupStart } from '@holdfast/proto/holdfast/agent/v1/agent.ts';
import type { ExcludedDisk } from '@holdfast/proto/holdfast/v1/manifest.ts';
import { domainNamed, domainState, findDomain, type DomainId } from '../libvirt/domains.ts';
import { readDomainXml, type DomainDisk, type DomainXml } from '../libvirt/domainXml.ts';
import type { Virsh } from '../libvirt/virsh.ts';
import { selectDisks } from './selectDisks.ts';
import { volumeDisk } from './volumeDisk.ts';

/** What is backed up: a domain that libvirt knows, or the volumes of one that does not run. */
export interface Subject {
  readonly domain: DomainId;
  readonly running: boolean;
  readonly xml: DomainXml;
  /** The XML of the domain as it is; empty for one that libvirt does not know. */
  readonly liveXml: string;
  /** The XML that restores the domain; empty for one that libvirt does not know. */
  readonly persistentXml: string;
  readonly included: readonly DomainDisk[];
  readonly excluded: readonly ExcludedDisk[];
}

/**
 * Finds out what is to be backed up. Volumes that the request names count for a domain that does not run.
 *
 * @throws HoldfastError DOMAIN_NOT_FOUND, DOMAIN_STATE, NO_DISKS, DISK_UNSUPPORTED
 */
export async function findSubject(virsh: Virsh, start: TakeBackupStart): Promise<Subject> {
  const known =
    start.volumes.length === 0
      ? await findDomain(virsh, start.domain)
      : await domainNamed(virsh, start.domain);
  const volumesOf = (disks: readonly DomainDisk[]): Promise<readonly DomainDisk[]> =>
    Promise.all(start.volumes.map((volume, index) => volumeDisk(virsh, volume, index, disks)));
  if (known === undefined) {
    const included = await volumesOf([]);
    const domain: DomainId = { uuid: '', name: start.domain };
    const xml = { ...domain, disks: included, qemuOwner: undefined };
    return { domain, running: false, xml, liveXml: '', persistentXml: '', included, excluded: [] };
  }
  const [state, liveXml, persistentXml] = await Promise.all([
    domainState(virsh, known.uuid),
    virsh.command(['dumpxml', known.uuid]),
    virsh.command(['dumpxml', '--inactive', known.uuid]),
  ]);
  const running = isRunning(known, state);
  const xml = readDomainXml(liveXml);
  const { included, excluded } =
    running || start.volumes.length === 0
      ? selectDisks(known.name, xml.disks)
      : { included: await volumesOf(xml.disks), excluded: [] };
  return { domain: known, running, xml, liveXml, persistentXml, included, excluded };
}

function isRunning(domain: DomainId, state: string): boolean {
  if (state === 'running') return true;
  if (state === 'shut off') return false;
  throw new HoldfastError(
    'DOMAIN_STATE',
    `Domain ${JSON.stringify(domain.name)} is ${state}; only a running domain or one that is shut off can be backed up.`,
    { metadata: { state } },
  );
}
