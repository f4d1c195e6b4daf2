import { HoldfastError } from '@holdfast/common/errors.ts';
import type { Secret } from '@holdfast/common/secret.ts';
import type { RbdTarget } from '@holdfast/proto/holdfast/v1/backup.ts';
import { clusterKey } from '../ceph/clusterKey.ts';
import { imageExists, rbdWith } from '../ceph/rbd.ts';
import type { RbdCluster, RbdImage } from '../ceph/rbdImage.ts';
import { readDomainXml } from '../libvirt/domainXml.ts';
import type { JobContext } from './context.ts';
import { domainXmlOf, type PublishedBackup } from './openBackup.ts';
import type { RestorePlace } from './restorePlace.ts';

/** The id under which QEMU knows the key of the cluster that is restored to. */
export const CLUSTER_KEY_ID = 'cluster-key';

/** The pool that a restore writes to. */
export interface RestorePool {
  /** In base64; undefined when a keyring on the host has it. */
  readonly key: Secret | undefined;
  /** The place of a new image. @throws HoldfastError TARGET_EXISTS, VOLUME_NOT_FOUND without such a pool */
  place(name: string): Promise<RestorePlace>;
}

/**
 * Finds the cluster, and the key to it.
 *
 * @throws HoldfastError INVALID_REQUEST when neither the request nor the backup names a cluster, VOLUME_REFUSED
 */
export async function openPool(
  context: JobContext,
  target: RbdTarget,
  backup: PublishedBackup,
): Promise<RestorePool> {
  const cluster = givenCluster(target) ?? (await clusterOfDomain(backup));
  const key = await clusterKey(context.virsh, cluster);
  const rbd = rbdWith(context.virsh, context.runtimeDirectory);
  return {
    key,
    place: async (name) => {
      const final: RbdImage = { cluster, pool: target.pool, namespace: target.namespace, name };
      if ((await rbd.find(final)) !== undefined) throw imageExists(final);
      const temporary = { ...final, name: `${name}.${context.header.jobId}.partial` };
      return { kind: 'rbd', temporary, final, keySecretId: key === undefined ? undefined : CLUSTER_KEY_ID };
    },
  };
}

function givenCluster({ monitors, user, secretUuid, confPath }: RbdTarget): RbdCluster | undefined {
  if (monitors.length === 0 && user === '' && secretUuid === '' && confPath === '') return undefined;
  return { monitors, user, secret: secretUuid === '' ? undefined : { uuid: secretUuid }, confPath };
}

async function clusterOfDomain(backup: PublishedBackup): Promise<RbdCluster> {
  const { disks } = readDomainXml(await domainXmlOf(backup));
  const cluster = disks.find((disk) => disk.rbd !== undefined)?.rbd?.cluster;
  if (cluster !== undefined) return cluster;
  throw new HoldfastError(
    'INVALID_REQUEST',
    'The domain in the backup has no RBD disk that would name a Ceph cluster. Name its monitors, user and secret, or ' +
      'a ceph.conf on the host.',
  );
}
