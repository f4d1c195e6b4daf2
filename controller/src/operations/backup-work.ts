import { HoldfastError } from '@holdfast/common/errors.ts';
import { Secret } from '@holdfast/common/secret.ts';
import type { BackupRef } from '@holdfast/proto/holdfast/agent/v1/agent.ts';
import type { Backup } from '@holdfast/proto/holdfast/v1/backup.ts';
import type { Catalog, WrappedKey } from '../catalog/backups.ts';
import type { Agents } from '../fleet/agents.ts';
import type { Hosts } from '../fleet/hosts.ts';
import { needOf } from '../fleet/need.ts';
import { fitHosts, noFitHost, type Placement } from '../fleet/placement.ts';
import type { Repositories } from '../fleet/repositories.ts';
import type { Keys } from '../keys/keys.ts';
import type { Settings } from '../zones/settings.ts';
import type { Store } from '../store/store.ts';
import { textOf } from '../zones/resolve.ts';
import type { Submit } from './submit.ts';

const SECOND = 1_000;
/** A host that does not take a connection within this is passed over. */
const REACH_DEADLINE_MS = 3 * SECOND;

/** What verifying, restoring and deleting need. */
export interface BackupWorkParts {
  readonly store: Store;
  readonly catalog: Catalog;
  readonly hosts: Hosts;
  readonly agents: Agents;
  readonly repositories: Repositories;
  readonly keys: Keys;
  readonly settings: Settings;
  readonly submit: Submit;
}

/**
 * The backup as an agent needs it, with its own key when it is encrypted. A passphrase takes the place of the stored one.
 *
 * @throws HoldfastError KEY_WRONG
 */
export async function backupRef(
  parts: BackupWorkParts,
  { backup, key }: { readonly backup: Backup; readonly key: WrappedKey | undefined },
  passphrase: string,
): Promise<BackupRef> {
  const repository = await parts.repositories.find(backup.repository);
  const given = passphrase === '' ? undefined : new Secret(passphrase);
  const secret = key && (await parts.keys.unwrap(key.keyId, key.wrappedKey, given));
  return {
    repository: await parts.repositories.ref(repository),
    backupId: backup.id,
    path: backup.path,
    manifestSha256: backup.manifestSha256,
    secret: secret?.reveal() ?? '',
  };
}

/**
 * The wanted host, which must be of the backup's zone, not drained, and answer.
 *
 * @throws HoldfastError HOST_NOT_FOUND, ZONE_MISMATCH, HOST_DRAINED, AGENT_UNREACHABLE
 */
export async function wantedHost(parts: BackupWorkParts, name: string, backup: Backup): Promise<Placement> {
  const host = await parts.hosts.findInZone(name, backup.zone);
  if (host.drained) {
    throw new HoldfastError('HOST_DRAINED', `Host ${host.name} is drained and takes no new work.`, {
      metadata: { host: host.name },
    });
  }
  await parts.agents.ready(host, REACH_DEADLINE_MS);
  return { host: host.name, reason: 'The request names it.' };
}

/**
 * The host for work that any fit one of the backup's zone could do: the least busy that answers.
 *
 * @param what the work, such as "verify the backup"
 * @throws HoldfastError HOST_NOT_FOUND when the zone has none that fits, HOST_DRAINED when all are drained,
 *   AGENT_UNREACHABLE when none answers
 */
export async function anyHost(parts: BackupWorkParts, backup: Backup, what: string): Promise<Placement> {
  const repository = await parts.repositories.find(backup.repository);
  const settings = await parts.settings.resolve(backup.zone);
  const need = needOf(repository, textOf(settings, 'nas.backup.placement.label'), backup.host);
  const hosts = await parts.hosts.withOperations(await parts.hosts.list(backup.zone));
  let failure: HoldfastError | undefined;
  for (const placement of fitHosts(hosts, need)) {
    try {
      await parts.agents.ready(await parts.hosts.find(placement.host), REACH_DEADLINE_MS);
      return placement;
    } catch (error) {
      if (!(error instanceof HoldfastError)) throw error;
      failure ??= error;
    }
  }
  throw failure ?? noFitHost(backup.zone, what, hosts, need);
}
