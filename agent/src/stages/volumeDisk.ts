import { HoldfastError } from '@holdfast/common/errors.ts';
import { secretWithKey } from '../ceph/clusterKey.ts';
import { parseRbdName } from '../ceph/rbdName.ts';
import type { DomainDisk } from '../libvirt/domainXml.ts';
import type { Virsh } from '../libvirt/virsh.ts';
import { run } from '../process/run.ts';

const DEADLINE_MS = 60_000;

const plain = { readOnly: false, transient: false, shareable: false, encryption: undefined } as const;

/**
 * A volume that was given by its path, as a disk. What a domain that libvirt knows says of the same volume is taken as it is.
 * Of any other file, QEMU looks at the header, as CloudStack's own script has it done; a block device is raw.
 *
 * @throws HoldfastError DISK_UNSUPPORTED, VOLUME_REFUSED
 */
export async function volumeDisk(
  virsh: Virsh,
  volume: string,
  index: number,
  known: readonly DomainDisk[],
): Promise<DomainDisk> {
  const target = index === 0 ? 'root' : `datadisk-${index}`;
  if (volume.startsWith('rbd:')) return rbdDisk(virsh, volume, target, known);
  const same = known.find((disk) => disk.source === volume);
  if (same !== undefined) return { ...same, target };
  const kind = await run('stat', ['--dereference', '--format=%F', '--', volume], { deadlineMs: DEADLINE_MS });
  if (kind.exitCode !== 0) throw unreadable(volume, kind.stderr);
  const sourceType = kind.stdout.trim() === 'block special file' ? 'block' : 'file';
  return {
    target,
    device: 'disk',
    sourceType,
    source: volume,
    format: sourceType === 'block' ? 'raw' : await formatOf(volume),
    ...plain,
    rbd: undefined,
  };
}

async function rbdDisk(
  virsh: Virsh,
  volume: string,
  target: string,
  known: readonly DomainDisk[],
): Promise<DomainDisk> {
  const { path, cluster, key } = parseRbdName(volume);
  const same = known.find((disk) => disk.rbd !== undefined && disk.source === path);
  if (same !== undefined) return { ...same, target };
  const secret = key === undefined ? undefined : await secretWithKey(virsh, key, path);
  const rbd = { cluster: { ...cluster, secret }, snapshot: '' };
  return { target, device: 'disk', sourceType: 'network', source: path, format: 'raw', ...plain, rbd };
}

async function formatOf(file: string): Promise<string> {
  // As a blockdev option: a plain name with a colon in it would be taken for a protocol.
  const options = JSON.stringify({ file: { driver: 'file', filename: file, locking: 'off' } });
  const info = await run('qemu-img', ['info', '--output=json', `json:${options}`], {
    deadlineMs: DEADLINE_MS,
  });
  if (info.exitCode !== 0) throw unreadable(file, info.stderr);
  return (JSON.parse(info.stdout) as { format: string }).format;
}

function unreadable(volume: string, stderr: string): HoldfastError {
  return new HoldfastError('DISK_UNSUPPORTED', `The volume ${volume} cannot be read: ${stderr.trim()}`);
}
