import { HoldfastError } from '@holdfast/common/errors.ts';
import type { ExcludedDisk } from '@holdfast/proto/holdfast/v1/manifest.ts';
import type { DomainDisk } from '../libvirt/domainXml.ts';

export interface DiskSelection {
  readonly included: readonly DomainDisk[];
  readonly excluded: readonly ExcludedDisk[];
}

/** Which disks of a domain a backup holds, and why it does not hold the others. */
export function selectDisks(domainName: string, disks: readonly DomainDisk[]): DiskSelection {
  const included: DomainDisk[] = [];
  const excluded: ExcludedDisk[] = [];
  for (const disk of disks) {
    const why = whyExcluded(disk);
    if (why === undefined) included.push(disk);
    else excluded.push({ target: disk.target, device: disk.device, source: disk.source, ...why });
  }
  if (included.length === 0) {
    throw new HoldfastError(
      'NO_DISKS',
      `Domain ${JSON.stringify(domainName)} has no disk that can be backed up` +
        (excluded.length === 0
          ? '.'
          : `: ${excluded.map((disk) => `${disk.target} ${disk.message}`).join(', ')}.`),
    );
  }
  return { included, excluded };
}

function whyExcluded(disk: DomainDisk): Pick<ExcludedDisk, 'reason' | 'message'> | undefined {
  if (disk.device === 'cdrom') return { reason: 'CDROM', message: 'is a CD-ROM drive' };
  if (disk.device === 'floppy') return { reason: 'FLOPPY', message: 'is a floppy drive' };
  if (disk.device === 'lun')
    return { reason: 'LUN', message: 'is a LUN that is passed through to the guest' };
  if (disk.source === '') return { reason: 'NO_MEDIUM', message: 'has no source' };
  if (disk.readOnly) return { reason: 'READ_ONLY', message: 'is read-only for the domain' };
  if (disk.transient)
    return { reason: 'TRANSIENT', message: 'is transient: what is written to it is thrown away' };
  return undefined;
}
