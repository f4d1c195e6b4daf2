import { basename } from 'node:path';
import { HoldfastError } from '@holdfast/common/errors.ts';
import { ProgramFailed, run } from '../process/run.ts';

/** LINSTOR's resources are called cs-VOLUME by CloudStack; a device is one of their numbered volumes. */
const LINSTOR_RESOURCE = /^(?:\/dev\/)?drbd\/by-res\/(?:cs-)?(?<id>[^/]+)\/\d+$/;
const DRBD_MINOR = /^\/dev\/drbd\d+$/;

/**
 * The id by which an orchestrator knows a volume, from the path of its source or its name on the network.
 *
 * @throws HoldfastError DISK_UNSUPPORTED for a DRBD device whose resource is not known.
 */
export async function volumeId(source: string): Promise<string> {
  const resource = LINSTOR_RESOURCE.exec(source)?.groups?.['id'];
  if (resource !== undefined) return resource;
  if (DRBD_MINOR.test(source)) return resourceOfMinor(source);
  return basename(source);
}

/** A domain that was started long ago may name its DRBD device by number; udev knows the resource. */
async function resourceOfMinor(device: string): Promise<string> {
  const links = await run('udevadm', ['info', '--query=symlink', `--name=${device}`], {
    deadlineMs: 10_000,
  }).catch((error: unknown) => {
    if (error instanceof ProgramFailed) return { exitCode: 1, stdout: '' };
    throw error;
  });
  const ids = links.stdout
    .split(/\s+/)
    .map((link) => LINSTOR_RESOURCE.exec(link)?.groups?.['id'])
    .filter((id) => id !== undefined);
  const [id] = ids;
  if (links.exitCode === 0 && id !== undefined) return id;
  throw new HoldfastError(
    'DISK_UNSUPPORTED',
    `${device} belongs to no DRBD resource that udev knows, so its volume has no name that a restore would find. ` +
      'Name the volume by its path in /dev/drbd/by-res.',
  );
}
