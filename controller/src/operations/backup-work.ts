import { HoldfastError } from '@holdfast/common/errors.ts';
import { Secret } from '@holdfast/common/secret.ts';
import type { BackupRef } from '@holdfast/proto/holdfast/agent/v1/agent.ts';
import type { Backup } from '@holdfast/proto/holdfast/v1/backup.ts';
import type { Host } from '@holdfast/proto/holdfast/v1/host.ts';
import type { Catalog, WrappedKey } from '../catalog/backups.ts';
import type { Agents } from '../fleet/agents.ts';
import type { Hosts } from '../fleet/hosts.ts';
import type { Repositories } from '../fleet/repositories.ts';
import type { Keys } from '../keys/keys.ts';
import type { Settings } from '../zones/settings.ts';
import type { Store } from '../store/store.ts';
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
 * The wanted host, which must be of the backup's zone and answer.
 *
 * @throws HoldfastError HOST_NOT_FOUND, ZONE_MISMATCH, AGENT_UNREACHABLE
 */
export async function wantedHost(parts: BackupWorkParts, name: string, backup: Backup): Promise<Host> {
  const host = await parts.hosts.findInZone(name, backup.zone);
  await parts.agents.ready(host, REACH_DEADLINE_MS);
  return host;
}

/**
 * The host that took the backup, or else another of its zone: the first that answers.
 *
 * @throws HoldfastError HOST_NOT_FOUND when the zone has none, AGENT_UNREACHABLE when none answers
 */
export async function anyHost(parts: BackupWorkParts, backup: Backup): Promise<Host> {
  const hosts = await parts.hosts.list(backup.zone);
  const byPreference = hosts.toSorted(
    (one, other) => Number(other.name === backup.host) - Number(one.name === backup.host),
  );
  let failure = new HoldfastError('HOST_NOT_FOUND', `Zone ${backup.zone} has no host. Add one first.`);
  for (const host of byPreference) {
    try {
      await parts.agents.ready(host, REACH_DEADLINE_MS);
      return host;
    } catch (error) {
      if (!(error instanceof HoldfastError)) throw error;
      failure = error;
    }
  }
  throw failure;
}
