import { join } from 'node:path';
import pMap from 'p-map';
import { HoldfastError } from '@holdfast/common/errors.ts';
import { isUuid } from '@holdfast/common/uuid.ts';
import { LeftoverKind } from '@holdfast/proto/holdfast/v1/leftover.ts';
import { rbdWith } from '../ceph/rbd.ts';
import { parseRbdPath, rbdPath, type RbdImage } from '../ceph/rbdImage.ts';
import { runningBackup } from '../libvirt/backupJob.ts';
import { VIRSH_AT_ONCE } from '../libvirt/domains.ts';
import { readDomainXml } from '../libvirt/domainXml.ts';
import { isFrozen, thaw } from '../libvirt/freeze.ts';
import { endPullBackup } from '../libvirt/pullBackup.ts';
import { endPushBackup } from '../transport/endPushBackup.ts';
import { kept, ofAnyHost, ofDeadJob, type Found, type LookParts } from './found.ts';
import { lockOwner } from './locks.ts';

const { LEFTOVER_KIND_LIBVIRT_JOB, LEFTOVER_KIND_FROZEN_GUEST } = LeftoverKind;
const { LEFTOVER_KIND_CHECKPOINT, LEFTOVER_KIND_RBD_SNAPSHOT } = LeftoverKind;
/** What is named so is ours, with the id of its job. */
const OWN_NAME = /^holdfast-(?<jobId>[0-9a-f-]{36})$/;

/**
 * What is left in domains: backup jobs of libvirt, frozen file systems, checkpoints, snapshots of RBD images.
 *
 * @throws HoldfastError LIBVIRT_FAILED when it is not known which backup jobs run
 */
export async function inDomains(
  parts: LookParts,
): Promise<{ readonly found: Found[]; readonly problems: readonly HoldfastError[] }> {
  const running = uuids(await parts.virsh.command(['list', '--uuid']));
  const all = uuids(await parts.virsh.command(['list', '--all', '--uuid']));
  const problems: HoldfastError[] = [];
  const images = new Map<string, RbdImage>();
  const found = await pMap(
    all,
    async (uuid) => {
      const jobs = running.includes(uuid)
        ? [...(await backupJobLeft(parts, uuid)), ...(await freezeLeft(parts, uuid))]
        : [];
      for (const image of await rbdImages(parts, uuid))
        images.set(JSON.stringify([image.cluster.monitors, image.cluster.confPath, rbdPath(image)]), image);
      return [...jobs, ...(await checkpointsLeft(parts, uuid))];
    },
    { concurrency: VIRSH_AT_ONCE },
  );
  const snapshots = await pMap(
    images.values(),
    (image) =>
      snapshotsLeft(parts, image).catch((error: unknown) => {
        if (!(error instanceof HoldfastError)) throw error;
        problems.push(error);
        return [];
      }),
    { concurrency: VIRSH_AT_ONCE },
  );
  return { found: [...found, ...snapshots].flat(), problems };
}

async function backupJobLeft({ virsh, roots, jobs }: LookParts, uuid: string): Promise<Found[]> {
  const paths = await runningBackup(virsh, uuid);
  if (paths === undefined) return [];
  const name = `backup job of domain ${uuid}`;
  const below = (root: string, path: string): string | undefined => {
    const jobId = path.startsWith(`${root}/`) ? path.slice(root.length + 1).split('/')[0] : undefined;
    return jobId !== undefined && isUuid(jobId) ? jobId : undefined;
  };
  const pushed = paths.filter((path) => below(roots.sockets, path) !== undefined);
  const scratch = paths.find((path) => below(roots.scratch, path) !== undefined);
  const jobId = below(roots.scratch, scratch ?? '') ?? below(roots.sockets, pushed[0] ?? '');
  if (jobId === undefined)
    return [
      kept(LEFTOVER_KIND_LIBVIRT_JOB, name, 'It works in other directories, so this agent has not begun it.'),
    ];
  if (await jobs.isAtWork(jobId)) return [];
  const runtime = join(roots.runtime, jobId);
  const [socket = ''] = paths;
  const remove = (): Promise<void> =>
    scratch === undefined
      ? endPushBackup(virsh, {
          domainUuid: uuid,
          exports: pushed,
          exporter: join(runtime, 'exporter'),
          writer: runtime,
        })
      : endPullBackup(virsh, uuid, socket, join(roots.scratch, jobId));
  return [ofDeadJob(LEFTOVER_KIND_LIBVIRT_JOB, name, jobId, remove)];
}

/** A guest is frozen only while a job has the lock on its domain, so the lock says who froze it. */
async function freezeLeft({ virsh, roots, jobs }: LookParts, uuid: string): Promise<Found[]> {
  const owner = await lockOwner(join(roots.locks, uuid));
  const isOurs = owner !== undefined && isUuid(owner);
  if (isOurs && (await jobs.isAtWork(owner))) return [];
  if (!(await isFrozen(virsh, uuid))) return [];
  const name = `domain ${uuid}`;
  if (!isOurs) {
    const reason = `No job of this agent that is known froze it. Thaw it, if nobody wants it so: virsh domfsthaw ${uuid}`;
    return [kept(LEFTOVER_KIND_FROZEN_GUEST, name, reason)];
  }
  return [ofDeadJob(LEFTOVER_KIND_FROZEN_GUEST, name, owner, () => thaw(virsh, uuid))];
}

async function checkpointsLeft(parts: LookParts, uuid: string): Promise<Found[]> {
  const { virsh, jobs } = parts;
  const listed = await virsh.attempt(['checkpoint-list', uuid, '--name']);
  const found: Found[] = [];
  for (const checkpoint of listed.stdout.split('\n')) {
    const jobId = OWN_NAME.exec(checkpoint)?.groups?.['jobId'];
    if (jobId === undefined || (await jobs.isAtWork(jobId))) continue;
    const remove = async (): Promise<void> => {
      await virsh.command(['checkpoint-delete', uuid, checkpoint]);
    };
    const name = `${checkpoint} of domain ${uuid}`;
    found.push(await ofAnyHost(parts, LEFTOVER_KIND_CHECKPOINT, name, jobId, remove));
  }
  return found;
}

async function rbdImages({ virsh }: LookParts, uuid: string): Promise<readonly RbdImage[]> {
  const xml = await virsh.attempt(['dumpxml', uuid]);
  // It was undefined meanwhile.
  if (xml.exitCode !== 0) return [];
  return readDomainXml(xml.stdout).disks.flatMap(({ rbd, source }) => {
    const image = rbd === undefined ? undefined : parseRbdPath(rbd.cluster, source);
    return image === undefined ? [] : [image];
  });
}

async function snapshotsLeft(parts: LookParts, image: RbdImage): Promise<Found[]> {
  const rbd = rbdWith(parts.virsh, parts.keysDirectory);
  const found: Found[] = [];
  for (const snapshot of await rbd.snapshots(image)) {
    const jobId = OWN_NAME.exec(snapshot)?.groups?.['jobId'];
    if (jobId === undefined || (await parts.jobs.isAtWork(jobId))) continue;
    const name = `${rbdPath(image)}@${snapshot}`;
    const remove = (): Promise<void> => rbd.removeSnapshot(image, snapshot);
    found.push(await ofAnyHost(parts, LEFTOVER_KIND_RBD_SNAPSHOT, name, jobId, remove));
  }
  return found;
}

function uuids(text: string): readonly string[] {
  return text.split('\n').filter((line) => line !== '');
}
