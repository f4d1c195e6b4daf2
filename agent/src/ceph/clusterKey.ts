import { HoldfastError } from '@holdfast/common/errors.ts';
import { Secret } from '@holdfast/common/secret.ts';
import { sentence, type Virsh } from '../libvirt/virsh.ts';
import { child, parseXml } from '../libvirt/xml.ts';
import type { LibvirtSecret, RbdCluster } from './rbdImage.ts';

const UUID = /[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}/gi;

/**
 * The key of a cluster's user in base64, out of libvirt's secret; undefined when a keyring on the host holds it.
 *
 * @throws HoldfastError VOLUME_REFUSED when libvirt has no such secret, or no value for it, or keeps it to itself.
 */
export async function clusterKey(virsh: Virsh, cluster: RbdCluster): Promise<Secret | undefined> {
  if (cluster.secret === undefined) return undefined;
  const uuid = await uuidOf(virsh, cluster.secret);
  const result = uuid === undefined ? undefined : await virsh.attempt(['secret-get-value', uuid]);
  if (result?.exitCode === 0) return new Secret(result.stdout.trim());
  const said = result === undefined ? 'there is none' : sentence(result.stderr);
  const name = 'uuid' in cluster.secret ? cluster.secret.uuid : JSON.stringify(cluster.secret.usage);
  throw new HoldfastError(
    'VOLUME_REFUSED',
    `libvirt does not give the secret ${name} with the key of client.${cluster.user || 'admin'}: ${said}. ` +
      'Define it on this host and set its value (virsh secret-define, secret-set-value).',
  );
}

/**
 * libvirt's secret that holds this key. Whoever works with an image later, also after a crash, finds the key by it.
 *
 * @throws HoldfastError VOLUME_REFUSED when none does that libvirt would show.
 */
export async function secretWithKey(virsh: Virsh, key: Secret, path: string): Promise<LibvirtSecret> {
  for (const uuid of await secretUuids(virsh)) {
    const result = await virsh.attempt(['secret-get-value', uuid]);
    if (result.exitCode === 0 && result.stdout.trim() === key.reveal()) return { uuid };
  }
  throw new HoldfastError(
    'VOLUME_REFUSED',
    `No secret of libvirt on this host holds the key that was given for RBD image ${path}, and Holdfast keeps no keys. ` +
      'libvirt has one for each storage pool of CloudStack; otherwise define it (virsh secret-define, secret-set-value).',
  );
}

async function uuidOf(virsh: Virsh, secret: LibvirtSecret): Promise<string | undefined> {
  if ('uuid' in secret) return secret.uuid;
  for (const uuid of await secretUuids(virsh)) {
    const xml = await virsh.attempt(['secret-dumpxml', uuid]);
    if (xml.exitCode !== 0) continue;
    const usage = child(parseXml(xml.stdout), 'usage');
    if (usage?.getAttribute('type') !== 'ceph') continue;
    if (child(usage, 'name')?.textContent === secret.usage) return uuid;
  }
  return undefined;
}

/** Of all secrets that libvirt knows. */
async function secretUuids(virsh: Virsh): Promise<readonly string[]> {
  return (await virsh.command(['secret-list'])).match(UUID) ?? [];
}
