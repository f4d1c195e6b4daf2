import { RepositoryType } from '@holdfast/proto/holdfast/v1/repository.ts';
import { HoldfastError } from './errors.ts';

/** The values that an option takes; `flag` takes none. */
type Values = RegExp | 'flag';

const NUMBER = /^\d{1,9}$/;
const SIZE = /^\d{1,9}$/;

/** Options of mount(8) that change nothing about what a repository is. `ro` is not among them: it is written to. */
const GENERAL: Readonly<Record<string, Values>> = {
  rw: 'flag',
  nosuid: 'flag',
  nodev: 'flag',
  noexec: 'flag',
  noatime: 'flag',
  nodiratime: 'flag',
  relatime: 'flag',
};

/** nfs(5). */
const NFS: Readonly<Record<string, Values>> = {
  vers: /^(?:3|4|4\.0|4\.1|4\.2)$/,
  nfsvers: /^(?:3|4|4\.0|4\.1|4\.2)$/,
  proto: /^(?:tcp|tcp6|rdma|rdma6)$/,
  port: NUMBER,
  mountport: NUMBER,
  mountproto: /^(?:tcp|tcp6)$/,
  hard: 'flag',
  soft: 'flag',
  softerr: 'flag',
  timeo: NUMBER,
  retrans: NUMBER,
  rsize: SIZE,
  wsize: SIZE,
  nconnect: /^(?:[1-9]|1[0-6])$/,
  max_connect: /^(?:[1-9]|1[0-6])$/,
  trunkdiscovery: 'flag',
  notrunkdiscovery: 'flag',
  sec: /^(?:sys|krb5|krb5i|krb5p)$/,
  xprtsec: /^(?:none|tls|mtls)$/,
  resvport: 'flag',
  noresvport: 'flag',
  sync: 'flag',
  ac: 'flag',
  noac: 'flag',
  actimeo: NUMBER,
  acregmin: NUMBER,
  acregmax: NUMBER,
  acdirmin: NUMBER,
  acdirmax: NUMBER,
  lookupcache: /^(?:all|none|pos|positive)$/,
  nosharecache: 'flag',
  lock: 'flag',
  nolock: 'flag',
  clientaddr: /^[0-9A-Fa-f.:]{2,45}$/,
};

/** mount.cifs(8). SMB 1 is not among the versions. */
const CIFS: Readonly<Record<string, Values>> = {
  vers: /^(?:2\.0|2\.1|3|3\.0|3\.02|3\.1\.1|default)$/,
  sec: /^(?:krb5|krb5i|ntlmssp|ntlmsspi)$/,
  seal: 'flag',
  sign: 'flag',
  port: NUMBER,
  ip: /^[0-9A-Fa-f.:]{2,45}$/,
  hard: 'flag',
  soft: 'flag',
  cache: /^(?:strict|none)$/,
  rsize: SIZE,
  wsize: SIZE,
  bsize: SIZE,
  actimeo: NUMBER,
  acregmax: NUMBER,
  acdirmax: NUMBER,
  echo_interval: NUMBER,
  closetimeo: NUMBER,
  handletimeout: NUMBER,
  multichannel: 'flag',
  max_channels: /^(?:[1-9]|1[0-6])$/,
  nosharesock: 'flag',
  nohandlecache: 'flag',
  serverino: 'flag',
  noserverino: 'flag',
  brl: 'flag',
  nobrl: 'flag',
};

/** mount.ceph(8). */
const CEPH: Readonly<Record<string, Values>> = {
  fs: /^[A-Za-z0-9._-]{1,128}$/,
  mds_namespace: /^[A-Za-z0-9._-]{1,128}$/,
  ms_mode: /^(?:legacy|crc|secure|prefer-crc|prefer-secure)$/,
  mount_timeout: /^[1-9]\d{0,3}$/,
  recover_session: /^(?:no|clean)$/,
  rsize: SIZE,
  wsize: SIZE,
  rasize: SIZE,
  caps_wanted_delay_min: NUMBER,
  caps_wanted_delay_max: NUMBER,
  wsync: 'flag',
  nowsync: 'flag',
  read_from_replica: /^(?:no|balance|localize)$/,
};

/** Why an option that people do give is not taken. */
const REASONS: Readonly<Record<string, string>> = {
  ro: 'a repository is written to',
  exec: 'nothing on a repository is run',
  suid: 'nothing on a repository is run',
  dev: 'nothing on a repository is a device',
  remount: 'a mount belongs to Holdfast alone',
  bind: 'a mount belongs to Holdfast alone',
  bg: 'Holdfast tries again itself',
  fg: 'Holdfast tries again itself',
  retry: 'Holdfast tries again itself',
  ...Object.fromEntries(
    [
      'credentials',
      'cred',
      'user',
      'username',
      'password',
      'pass',
      'password2',
      'domain',
      'dom',
      'workgroup',
      'guest',
    ]
      .concat(['secret', 'secretfile', 'key', 'name', 'keyring'])
      .map((name) => [name, 'user name, password and domain are fields of their own']),
  ),
};

/**
 * The options as they were given, when each is known to be harmless on a repository of this type. What is not known is
 * refused: an option can make the host run what lies on the NAS, or put a password where everybody reads it.
 *
 * @throws HoldfastError INVALID_REQUEST, with the option's name only: its value may be a secret.
 */
export function checkMountOptions(type: RepositoryType, options: readonly string[]): string[] {
  const allowed = { ...GENERAL, ...specific(type) };
  const seen = new Set<string>();
  for (const option of options) {
    const [name, value] = splitOption(option);
    const values = Object.hasOwn(allowed, name) ? allowed[name] : undefined;
    if (values === undefined) {
      const why = Object.hasOwn(REASONS, name) ? `: ${REASONS[name]}` : '';
      throw refuse(`The mount option ${shown(name)} is not taken${why}.`);
    }
    if (seen.has(name)) throw refuse(`The mount option ${name} is given twice.`);
    seen.add(name);
    if (values === 'flag' ? value !== undefined : value === undefined || !values.test(value)) {
      throw refuse(
        `The mount option ${name} ${values === 'flag' ? 'takes no value' : 'has no value that fits'}.`,
      );
    }
  }
  return [...options];
}

/** `name=value` in two; a flag has no value. */
export function splitOption(option: string): [name: string, value?: string] {
  const at = option.indexOf('=');
  return at === -1 ? [option] : [option.slice(0, at), option.slice(at + 1)];
}

function specific(type: RepositoryType): Readonly<Record<string, Values>> {
  switch (type) {
    case RepositoryType.REPOSITORY_TYPE_NFS:
      return NFS;
    case RepositoryType.REPOSITORY_TYPE_CIFS:
      return CIFS;
    case RepositoryType.REPOSITORY_TYPE_CEPH:
      return CEPH;
    case RepositoryType.REPOSITORY_TYPE_LOCAL:
    case RepositoryType.REPOSITORY_TYPE_UNSPECIFIED:
    case RepositoryType.UNRECOGNIZED:
      return {};
  }
}

/** Long texts are no names; a password with a comma before it may have been taken for one. */
function shown(name: string): string {
  return /^[a-z][a-z0-9_-]{0,30}$/.test(name)
    ? name
    : 'that begins it (only letters, digits, - and _ are in names)';
}

function refuse(message: string): HoldfastError {
  return new HoldfastError('INVALID_REQUEST', message);
}
