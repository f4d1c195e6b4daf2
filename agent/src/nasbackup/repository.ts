import { HoldfastError } from '@holdfast/common/errors.ts';
import { splitOption } from '@holdfast/common/mountOptions.ts';
import { parseRepositoryPlace } from '@holdfast/common/repository.ts';
import type { RepositoryRef } from '@holdfast/proto/holdfast/agent/v1/agent.ts';
import { RepositoryType, type RepositoryCredentials } from '@holdfast/proto/holdfast/v1/repository.ts';
import { UsageError, type NasStorage } from './arguments.ts';

const TYPES: Readonly<Record<string, RepositoryType>> = {
  nfs: RepositoryType.REPOSITORY_TYPE_NFS,
  cifs: RepositoryType.REPOSITORY_TYPE_CIFS,
  ceph: RepositoryType.REPOSITORY_TYPE_CEPH,
  local: RepositoryType.REPOSITORY_TYPE_LOCAL,
};

/** The names under which mount.cifs(8) and mount.ceph(8) take what is a field of its own to an agent. */
const CREDENTIALS: Readonly<Record<string, keyof RepositoryCredentials>> = {
  username: 'username',
  user: 'username',
  name: 'username',
  password: 'password',
  pass: 'password',
  secret: 'password',
  domain: 'domain',
  dom: 'domain',
  workgroup: 'domain',
};

/**
 * A storage of CloudStack as a repository that the agent mounts by itself. CloudStack keeps user and password among the
 * mount options; to the agent they go apart, so that they reach no argv of a mount.
 *
 * @throws UsageError when the agent would refuse it; the message has no password.
 */
export function repositoryOf({ type, address, mountOptions }: NasStorage): RepositoryRef {
  const isLocal = type === 'local';
  const credentials: { -readonly [Key in keyof RepositoryCredentials]: string } = {
    username: '',
    password: '',
    domain: '',
  };
  const options: string[] = [];
  for (const option of mountOptions.split(',').map((each) => each.trim())) {
    const [name, value] = splitOption(option);
    const field = Object.hasOwn(CREDENTIALS, name) ? CREDENTIALS[name] : undefined;
    if (type !== 'nfs' && field !== undefined && value !== undefined) credentials[field] = value;
    else if (option !== '') options.push(option);
  }
  const given = {
    type: TYPES[type] ?? RepositoryType.REPOSITORY_TYPE_UNSPECIFIED,
    path: isLocal ? address : '',
    address: isLocal ? '' : address,
    mountOptions: options,
    credentials: Object.values(credentials).some((value) => value !== '') ? credentials : undefined,
  };
  try {
    return { ...given, ...parseRepositoryPlace(given), name: address, repositoryId: '' };
  } catch (error) {
    if (error instanceof HoldfastError) throw new UsageError(error.message);
    throw error;
  }
}
