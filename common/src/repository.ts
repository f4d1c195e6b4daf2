import { isAbsolute, normalize } from 'node:path/posix';
import { RepositoryType, type RepositoryCredentials } from '@holdfast/proto/holdfast/v1/repository.ts';
import { HoldfastError } from './errors.ts';
import { checkMountOptions } from './mountOptions.ts';

/** What is said of a repository's place by whoever adds it, and by a controller to an agent. */
export interface GivenPlace {
  readonly type: RepositoryType;
  readonly path: string;
  readonly address: string;
  readonly mountOptions: readonly string[];
  readonly credentials?: RepositoryCredentials | undefined;
}

/** A repository's place: a local directory (`path`), or what is mounted (`address`, `mountOptions`). */
export interface RepositoryPlace {
  readonly type: RepositoryType;
  /** An absolute path; empty for one that is mounted. */
  readonly path: string;
  /** Empty for a local one. */
  readonly address: string;
  readonly mountOptions: string[];
}

/** A path longer than this is refused by Linux (PATH_MAX); mount(2) takes no longer source. */
const MAX_PATH_BYTES = 4_095;
/** The longest that mount.cifs takes (MOUNT_PASSWD_SIZE, MAX_USERNAME_SIZE, MAX_DOMAIN_SIZE). */
const MAX_PASSWORD_BYTES = 512;
const MAX_NAME_BYTES = 255;

const HOST = String.raw`(?:[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+(?:%[A-Za-z0-9]+)?\])`;
const NFS_ADDRESS = new RegExp(`^(?<server>${HOST}):(?<path>/.*)$`, 's');
const CIFS_ADDRESS = new RegExp(`^//(?<server>${HOST})/(?<share>[^/]+)(?<path>/.*)?$`, 's');
const MONITOR = String.raw`${HOST}(?::\d{1,5})?`;
const CEPH_ADDRESS = new RegExp(`^(?<monitors>${MONITOR}(?:,${MONITOR})*):(?<path>/.*)$`, 's');
/** What no file name on a NAS has, and what would end a line of a file. */
// eslint-disable-next-line no-control-regex -- control characters are what is looked for
const CONTROL = /[\u0000-\u001f\u007f]/;
/** What a CIFS address cannot have: mount.cifs puts it among its options, which commas part; `"` is quoted to nowhere. */
const NOT_IN_CIFS = /[,"]/;
const CEPH_USER = /^[A-Za-z0-9._-]{1,128}$/;
const CEPH_KEY = /^[A-Za-z0-9+/]{20,200}={0,2}$/;
const CIFS_NAME = /^[^,"\\/%]+$/;

/**
 * The place in one form, whichever way it was written: `\\server\share` is `//server/share`, `/a//b/` is `/a/b`. Touches
 * nothing.
 *
 * @throws HoldfastError INVALID_REQUEST; its message has nothing of the credentials.
 */
export function parseRepositoryPlace(given: GivenPlace): RepositoryPlace {
  const { type, credentials } = given;
  switch (type) {
    case RepositoryType.REPOSITORY_TYPE_UNSPECIFIED:
    case RepositoryType.REPOSITORY_TYPE_LOCAL:
      if (given.address !== '') throw refuse('A local repository has a path and no address.');
      if (given.mountOptions.length > 0)
        throw refuse('A local repository is not mounted: it has no mount options.');
      if (credentials !== undefined)
        throw refuse('A local repository is not mounted: it has no credentials.');
      return {
        type: RepositoryType.REPOSITORY_TYPE_LOCAL,
        path: parsePath(given.path),
        address: '',
        mountOptions: [],
      };
    case RepositoryType.REPOSITORY_TYPE_NFS:
      if (credentials !== undefined)
        throw refuse('An NFS export takes no credentials; see the option sec=krb5.');
      return mounted(given, parseNfs(given.address));
    case RepositoryType.REPOSITORY_TYPE_CIFS:
      if (credentials !== undefined) checkCifsCredentials(credentials);
      return mounted(given, parseCifs(given.address));
    case RepositoryType.REPOSITORY_TYPE_CEPH:
      checkCephCredentials(credentials);
      return mounted(given, parseCeph(given.address));
    case RepositoryType.UNRECOGNIZED:
      break;
  }
  // A number that a newer caller knows is none of the cases.
  throw refuse(`There is no repository type ${type}.`);
}

/** The address or the path, for people. */
export function describePlace(place: Pick<RepositoryPlace, 'path' | 'address'>): string {
  return place.address === '' ? place.path : place.address;
}

function mounted(given: GivenPlace, address: string): RepositoryPlace {
  if (given.path !== '') throw refuse('A repository that is mounted has an address and no path.');
  return {
    type: given.type,
    path: '',
    address,
    mountOptions: checkMountOptions(given.type, given.mountOptions),
  };
}

function parsePath(path: string): string {
  if (!isAbsolute(path) || path.includes('\0') || Buffer.byteLength(path) > MAX_PATH_BYTES) {
    throw refuse(`The path of the repository, ${JSON.stringify(path)}, is not an absolute path.`);
  }
  return trimmed(normalize(path));
}

function parseNfs(text: string): string {
  const { server = '', path = '' } = NFS_ADDRESS.exec(text)?.groups ?? {};
  if (server === '') throw malformed(text, 'server:/export');
  return `${server}:${innerPath(text, path)}`;
}

function parseCifs(text: string): string {
  const slashes = text.replaceAll('\\', '/');
  const { server = '', share = '', path = '' } = CIFS_ADDRESS.exec(slashes)?.groups ?? {};
  if (server === '') throw malformed(text, String.raw`//server/share or \\server\share`);
  if (NOT_IN_CIFS.test(slashes)) {
    throw refuse(`The address ${JSON.stringify(text)} has a comma or a quote, which mount.cifs cannot take.`);
  }
  const inner = innerPath(text, `/${share}${path}`);
  return `//${server}${inner}`;
}

function parseCeph(text: string): string {
  const { monitors = '', path = '' } = CEPH_ADDRESS.exec(text)?.groups ?? {};
  if (monitors === '') throw malformed(text, 'mon1:6789,mon2:6789:/path');
  return `${monitors}:${innerPath(text, path)}`;
}

/** A path on the server, without anything that a server could understand in another way. */
function innerPath(address: string, path: string): string {
  if (CONTROL.test(address)) throw refuse(`The address ${JSON.stringify(address)} has control characters.`);
  if (Buffer.byteLength(address) > MAX_PATH_BYTES) throw refuse('The address of the repository is too long.');
  if (path.split('/').includes('..')) {
    throw refuse(`The address ${JSON.stringify(address)} has a "..": write the path that it leads to.`);
  }
  return trimmed(normalize(path));
}

function trimmed(path: string): string {
  return path.length > 1 && path.endsWith('/') ? path.slice(0, -1) : path;
}

function checkCifsCredentials({ username, password, domain }: RepositoryCredentials): void {
  if (username === '') throw refuse('The credentials have no user name.');
  for (const [what, text] of [
    ['user name', username],
    ['domain', domain],
  ] as const) {
    if (text === '') continue;
    if (!CIFS_NAME.test(text) || CONTROL.test(text) || Buffer.byteLength(text) > MAX_NAME_BYTES) {
      throw refuse(
        `The ${what} cannot be used: it is too long or has a comma, quote, slash, backslash, percent sign or control ` +
          'character. The domain is a field of its own.',
      );
    }
  }
  if (password === '') throw refuse('The password is empty. Leave the credentials out to ask as guest.');
  if (CONTROL.test(password)) throw refuse('The password has a line break or another control character.');
  if (Buffer.byteLength(password) > MAX_PASSWORD_BYTES) {
    throw refuse(`The password is longer than ${MAX_PASSWORD_BYTES} bytes.`);
  }
}

function checkCephCredentials(credentials: RepositoryCredentials | undefined): void {
  if (credentials === undefined) throw refuse('A Ceph repository needs credentials: the client and its key.');
  if (!CEPH_USER.test(credentials.username) || credentials.username.startsWith('client.')) {
    throw refuse(
      'The user name of a Ceph repository is that of the client without "client.", such as "backup".',
    );
  }
  if (!CEPH_KEY.test(credentials.password)) {
    throw refuse('The password of a Ceph repository is the key as `ceph auth print-key` prints it.');
  }
  if (credentials.domain !== '') throw refuse('A domain belongs to CIFS only.');
}

function malformed(text: string, form: string): HoldfastError {
  return refuse(`The address ${JSON.stringify(text)} is not of the form ${form}.`);
}

function refuse(message: string): HoldfastError {
  return new HoldfastError('INVALID_REQUEST', message);
}
