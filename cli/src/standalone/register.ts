import { grpcTarget, type Address } from '@holdfast/common/address.ts';
import { HoldfastError } from '@holdfast/common/errors.ts';
import type { Reason } from '@holdfast/common/reasons.ts';
import { AddRepositoryRequest, RepositoryType } from '@holdfast/proto/holdfast/v1/repository.ts';
import { usage } from '../command-error.ts';
import { call, type Session } from '../session.ts';

/** A repository by its name and directory. */
export interface NamedPath {
  readonly name: string;
  readonly path: string;
}

export interface Fleet {
  readonly zone: string;
  readonly hostName: string;
  readonly agent: Address;
  readonly repositories: readonly NamedPath[];
}

/** Tells a controller of the zone, the host and the repositories of this machine, as far as it knows them not. */
export async function registerFleet(session: Session, fleet: Fleet): Promise<void> {
  const { zone, hostName: name } = fleet;
  await unless('ZONE_EXISTS', call(session, session.zones.createZone.bind(session.zones), { name: zone }));
  const address = fleet.agent.kind === 'unix' ? `unix://${fleet.agent.path}` : grpcTarget(fleet.agent);
  await unless(
    'HOST_EXISTS',
    call(session, session.hosts.addHost.bind(session.hosts), { zone, name, address, labels: {} }),
  );
  for (const repository of fleet.repositories) await addRepository(session, zone, repository);
}

async function addRepository(session: Session, zone: string, { name, path }: NamedPath): Promise<void> {
  const type = RepositoryType.REPOSITORY_TYPE_LOCAL;
  const isNew = await unless(
    'REPOSITORY_EXISTS',
    call(
      session,
      session.repositories.addRepository.bind(session.repositories),
      AddRepositoryRequest.fromPartial({ zone, name, path, type }),
    ),
  );
  if (isNew) return;
  const { repositories } = await call(
    session,
    session.repositories.listRepositories.bind(session.repositories),
    {
      zone: '',
    },
  );
  const known = repositories.find((candidate) => candidate.name === name);
  if (known !== undefined && (known.path !== path || known.zone !== zone)) {
    throw usage(
      `The repository ${name} is known already, as ${known.path} in zone ${known.zone}. ` +
        'Give the new one another name.',
    );
  }
}

/** Whether the call went well; false when it failed for this one reason, which is as good. */
export async function unless(reason: Reason, answer: Promise<unknown>): Promise<boolean> {
  try {
    await answer;
    return true;
  } catch (error) {
    if (error instanceof HoldfastError && error.reason === reason) return false;
    throw error;
  }
}
