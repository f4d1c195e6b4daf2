import { HoldfastError } from '@holdfast/common/errors.ts';
import { Secret } from '@holdfast/common/secret.ts';
import { MONITOR_PORT, type RbdCluster } from './rbdImage.ts';

/** An RBD image by the one name that QEMU took for it before it had options: `rbd:POOL/IMAGE:OPTION=VALUE:...`. */
export interface RbdName {
  /** `pool/image` or `pool/namespace/image`. */
  readonly path: string;
  readonly cluster: Omit<RbdCluster, 'secret'>;
  /** Of the user, in base64; undefined when a keyring on the host holds it. */
  readonly key: Secret | undefined;
}

/** How to connect, and nothing about what is read. */
const MEANINGLESS = ['auth_supported', 'auth_client_required', 'rbd_default_format', 'client_mount_timeout'];

/**
 * Reads such a name, in which a backslash takes the meaning from the character behind it.
 *
 * @throws HoldfastError DISK_UNSUPPORTED; the message has no key.
 */
export function parseRbdName(name: string): RbdName {
  const [prefix = '', image = '', ...options] = name.match(/(?:\\.|[^:\\])+/gs) ?? [];
  const path = unescape(image);
  if (prefix !== 'rbd' || !/^[^/@]+(?:\/[^/@]+){1,2}$/.test(path)) {
    throw new HoldfastError(
      'DISK_UNSUPPORTED',
      `${JSON.stringify(`rbd:${path}`)} is no RBD image: it is written rbd:POOL/IMAGE.`,
    );
  }
  let monitors: readonly string[] = [];
  let user = '';
  let confPath = '';
  let key: Secret | undefined;
  for (const option of options) {
    const at = option.indexOf('=');
    const field = unescape(at < 0 ? option : option.slice(0, at));
    const value = at < 0 ? '' : unescape(option.slice(at + 1));
    if (field === 'mon_host')
      monitors = value
        .split(/[;,\s]+/)
        .filter((each) => each !== '')
        .map(withPort);
    else if (field === 'id') user = value;
    else if (field === 'conf') confPath = value;
    else if (field === 'key') key = new Secret(value);
    else if (!MEANINGLESS.includes(field))
      throw new HoldfastError('DISK_UNSUPPORTED', `The option ${field} of RBD image ${path} is not known.`);
  }
  return { path, cluster: { monitors, user, confPath }, key };
}

function unescape(text: string): string {
  return text.replaceAll(/\\(.)/gs, '$1');
}

function withPort(monitor: string): string {
  return /^(?:\[.*\]|[^:]*):\d+$/.test(monitor) ? monitor : `${monitor}:${MONITOR_PORT}`;
}
