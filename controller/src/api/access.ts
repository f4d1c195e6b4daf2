import { HoldfastError } from '@holdfast/common/errors.ts';
import type { Access } from '@holdfast/common/gate.ts';
import { hasRole, type Identity, type Role } from '@holdfast/common/identity/identity.ts';
import type { Catalog } from '../catalog/backups.ts';
import type { Hosts } from '../fleet/hosts.ts';
import type { Repositories } from '../fleet/repositories.ts';
import type { Journal } from '../operations/journal.ts';

/** The least role that a method asks of its caller. */
type CallerRole = 'viewer' | 'operator' | 'admin';

/**
 * How a request leads to the zones that it is about:
 *
 * - `none`: it is about no zone in particular, and whoever has the role anywhere may ask
 * - `every`: it is about all of them
 * - `zone`: by its field of that name, which means every zone when it is empty
 * - `operation`, `backup`: by the id of one
 * - `host`, `repository`: by the name of one
 * - `place`: by its fields zone, host and repository together
 */
type Scope = 'none' | 'every' | 'zone' | 'operation' | 'backup' | 'host' | 'repository' | 'place';

/** What each method asks of its caller. A method that is not here is nobody's. */
export const accessRules: Readonly<Record<string, readonly [CallerRole, Scope]>> = {
  'BackupService/TakeBackup': ['operator', 'zone'],
  'BackupService/VerifyBackup': ['operator', 'backup'],
  'BackupService/RestoreBackup': ['operator', 'backup'],
  'BackupService/DeleteBackup': ['operator', 'backup'],
  'BackupService/GetBackup': ['viewer', 'backup'],
  'BackupService/ListBackups': ['viewer', 'zone'],
  'OperationService/GetOperation': ['viewer', 'operation'],
  'OperationService/ListOperations': ['viewer', 'zone'],
  'OperationService/WatchOperation': ['viewer', 'operation'],
  'OperationService/UpdateOperation': ['operator', 'operation'],
  'OperationService/CancelOperation': ['operator', 'operation'],
  'ZoneService/CreateZone': ['admin', 'every'],
  'ZoneService/ListZones': ['viewer', 'none'],
  'ZoneService/SetSettings': ['admin', 'zone'],
  'ZoneService/GetSettings': ['viewer', 'zone'],
  'ZoneService/ListSettingDefinitions': ['viewer', 'none'],
  'ZoneService/ListSettingChanges': ['viewer', 'zone'],
  'HostService/AddHost': ['admin', 'zone'],
  'HostService/ListHosts': ['viewer', 'zone'],
  'HostService/GetHost': ['viewer', 'host'],
  'HostService/SetHostLabels': ['admin', 'host'],
  'HostService/DrainHost': ['operator', 'host'],
  'HostService/UndrainHost': ['operator', 'host'],
  'HostService/RemoveHost': ['admin', 'host'],
  'RepositoryService/AddRepository': ['admin', 'zone'],
  'RepositoryService/ListRepositories': ['viewer', 'zone'],
  'RepositoryService/GetRepository': ['viewer', 'repository'],
  'RepositoryService/SetRepositoryCredentials': ['admin', 'repository'],
  'RepositoryService/RemoveRepository': ['admin', 'repository'],
  'RepositoryService/RescanRepository': ['admin', 'repository'],
  'KeyService/ListKeys': ['viewer', 'zone'],
  'KeyService/RotateKey': ['admin', 'zone'],
  'KeyService/ImportKeys': ['admin', 'zone'],
  'KeyService/RecoverKeys': ['admin', 'zone'],
  'StatisticsService/ListZoneStatistics': ['viewer', 'zone'],
  'StatisticsService/ListDomainStatistics': ['viewer', 'zone'],
  'StatisticsService/ListRepositoryStatistics': ['viewer', 'place'],
  'LeftoverService/ListLeftovers': ['viewer', 'place'],
  'LeftoverService/RemoveLeftovers': ['admin', 'place'],
};

const ROLES: Readonly<Record<CallerRole, readonly Role[]>> = {
  viewer: ['viewer', 'operator', 'admin'],
  operator: ['operator', 'admin'],
  admin: ['admin'],
};

/** The fields by which requests name what they are about. */
interface Request {
  readonly zone?: string;
  readonly operationId?: string;
  readonly backupId?: string;
  readonly name?: string;
  readonly host?: string;
  readonly repository?: string;
}

/** Who may call which method of the controller, and for which zones. */
export function controllerAccess(parts: {
  readonly journal: Pick<Journal, 'find'>;
  readonly catalog: Pick<Catalog, 'find'>;
  readonly hosts: Pick<Hosts, 'find'>;
  readonly repositories: Pick<Repositories, 'find'>;
}): Access {
  const { journal, catalog, hosts, repositories } = parts;
  const hostZone = async (name: string): Promise<string> => (await hosts.find(name)).zone;
  const repositoryZone = async (name: string): Promise<string> => (await repositories.find(name)).zone;

  /** The zones of a request; an empty name stands for all of them. */
  const zonesOf = async (scope: Scope, request: Request): Promise<readonly string[]> => {
    const { zone = '', operationId = '', backupId = '', name = '', host = '', repository = '' } = request;
    switch (scope) {
      case 'none':
        return [];
      case 'every':
        return [''];
      case 'zone':
        return [zone];
      case 'operation':
        return [(await journal.find(operationId)).zone];
      case 'backup':
        return [(await catalog.find(backupId)).backup.zone];
      case 'host':
        return [await hostZone(name)];
      case 'repository':
        return [await repositoryZone(name)];
      case 'place':
        return [
          zone,
          ...(host === '' ? [] : [await hostZone(host)]),
          ...(repository === '' ? [] : [await repositoryZone(repository)]),
        ];
    }
  };

  return {
    admit: (path, caller) => {
      const method = path.replace(/^\/holdfast\.v1\./, '');
      const rule = Object.hasOwn(accessRules, method) ? accessRules[method] : undefined;
      if (rule === undefined) throw denied(`${caller.name} may not call ${method}.`);
      const [role, scope] = rule;
      const roles = ROLES[role];
      if (hasRole(caller, roles, undefined)) return undefined;
      if (!caller.grants.some((grant) => roles.includes(grant.role))) {
        throw denied(`${method} needs the role ${role}, which ${caller.name} does not have.`);
      }
      return async (request) => {
        for (const zone of await zonesOf(scope, request as Request)) {
          if (!hasRole(caller, roles, zone)) throw deniedInZone(method, role, zone, caller);
        }
      };
    },
  };
}

function deniedInZone(method: string, role: string, zone: string, caller: Identity): HoldfastError {
  return zone === ''
    ? denied(
        `${method} without a zone is about all zones, and ${caller.name} has the role ${role} in some only. Name the zone.`,
      )
    : denied(`${method} needs the role ${role} in zone ${zone}, which ${caller.name} does not have.`);
}

function denied(message: string): HoldfastError {
  return new HoldfastError('PERMISSION_DENIED', message);
}
