/** Ceph's monitors listen on it unless they say otherwise. */
export const MONITOR_PORT = '6789';

/** How to reach a Ceph cluster, as the source of a libvirt disk says it. */
export interface RbdCluster {
  /** `host:port`; empty when the configuration file names them. */
  readonly monitors: readonly string[];
  /** Without `client.`; empty is client.admin. */
  readonly user: string;
  /** The libvirt secret that holds the user's key; undefined when a keyring on the host does. */
  readonly secret: LibvirtSecret | undefined;
  /** A ceph.conf on the host; empty is Ceph's own default. */
  readonly confPath: string;
}

/** How domain XML names a secret. */
export type LibvirtSecret = { readonly uuid: string } | { readonly usage: string };

/** An image, or where one is to be. */
export interface RbdImage {
  readonly cluster: RbdCluster;
  readonly pool: string;
  /** Empty is the pool's own. */
  readonly namespace: string;
  readonly name: string;
}

/** `pool/image` or `pool/namespace/image`, as libvirt and rbd(8) write it. */
export function rbdPath({ pool, namespace, name }: Omit<RbdImage, 'cluster'>): string {
  return [pool, ...(namespace === '' ? [] : [namespace]), name].join('/');
}

/** The image of a path; undefined when it is none. */
export function parseRbdPath(cluster: RbdCluster, path: string): RbdImage | undefined {
  const parts = path.split('/');
  const [pool = '', second = '', third] = parts;
  if (parts.length < 2 || parts.length > 3 || parts.includes('')) return undefined;
  return third === undefined
    ? { cluster, pool, namespace: '', name: second }
    : { cluster, pool, namespace: second, name: third };
}

/**
 * The image as options for blockdev-add and qemu-img (qemu.git qapi/block-core.json, BlockdevOptionsRbd).
 *
 * @param keySecretId the id under which QEMU knows the user's key; undefined with a keyring on the host
 */
export function rbdOptions(
  image: RbdImage,
  keySecretId: string | undefined,
): Readonly<Record<string, unknown>> {
  const { cluster, pool, namespace, name } = image;
  return {
    driver: 'rbd',
    pool,
    image: name,
    ...(namespace === '' ? {} : { namespace }),
    ...(cluster.user === '' ? {} : { user: cluster.user }),
    ...(cluster.confPath === '' ? {} : { conf: cluster.confPath }),
    ...(cluster.monitors.length === 0 ? {} : { server: cluster.monitors.map(serverOf) }),
    // As libvirt does it: without a key the keyring decides.
    ...(keySecretId === undefined
      ? {}
      : { 'key-secret': keySecretId, 'auth-client-required': ['cephx', 'none'] }),
  };
}

/** QEMU wants host and port apart, and an IPv6 address without its brackets. */
export function serverOf(monitor: string): { readonly host: string; readonly port: string } {
  const colon = monitor.lastIndexOf(':');
  return { host: monitor.slice(0, colon).replace(/^\[(.*)\]$/, '$1'), port: monitor.slice(colon + 1) };
}
