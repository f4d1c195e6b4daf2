import { HoldfastError } from '@holdfast/common/errors.ts';
import type { Domain } from '@holdfast/proto/holdfast/v1/host.ts';
import { domainState, type DomainId } from '../libvirt/domains.ts';
import { readDomainXml, type DomainDisk } from '../libvirt/domainXml.ts';
import type { Virsh } from '../libvirt/virsh.ts';
import { fileStateOf } from '../process/fileState.ts';

/**
 * A domain for who asks for hosts and domains.
 *
 * @param withSources also in which state the sources of its disks are, when it is shut off
 */
export async function describeDomain(virsh: Virsh, domain: DomainId, withSources: boolean): Promise<Domain> {
  const xml = readDomainXml(await virsh.command(['dumpxml', domain.uuid]));
  if (xml.uuid !== domain.uuid)
    throw new HoldfastError('LIBVIRT_FAILED', `libvirt mixed up domain ${domain.uuid}.`);
  const state = await domainState(virsh, domain.uuid);
  const disks = await Promise.all(
    xml.disks.map(async (disk) => {
      const { target, source, format, device } = disk;
      const sourceState = withSources && state === 'shut off' ? await sourceStateOf(disk, xml.disks) : '';
      return { target, source, format, device, sourceState };
    }),
  );
  return { ...domain, state, disks };
}

/**
 * Of a file, its inode and last write. An RBD image is read from a snapshot, whose instant does not matter as long as it is
 * the only one. Nothing is known of block devices.
 */
async function sourceStateOf(disk: DomainDisk, all: readonly DomainDisk[]): Promise<string> {
  if (disk.sourceType === 'file' && disk.source !== '') return (await fileStateOf(disk.source)) ?? '';
  const isOnly = all.filter(({ device }) => device === 'disk').length === 1;
  return disk.rbd !== undefined && isOnly ? `rbd:${disk.rbd.cluster.monitors.toSorted().join(',')}` : '';
}
