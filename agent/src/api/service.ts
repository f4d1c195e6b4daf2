import pMap from 'p-map';
import type { Logger } from '@holdfast/common/logger.ts';
import { serverStream, unary } from '@holdfast/common/call.ts';
import { version } from '@holdfast/common/version.ts';
import type {
  AgentServiceServer,
  GetHostRequest,
  RepositoryRef,
} from '@holdfast/proto/holdfast/agent/v1/agent.ts';
import { leftoverStateToJSON } from '@holdfast/proto/holdfast/v1/leftover.ts';
import { deletionsIn } from '../jobs/deletions.ts';
import type { Epochs } from '../jobs/epochs.ts';
import type { Jobs } from '../jobs/jobs.ts';
import { writeStart } from '../jobs/start.ts';
import type { Leftovers } from '../leftovers/answer.ts';
import { findDomain, listDomains, VIRSH_AT_ONCE, type DomainId } from '../libvirt/domains.ts';
import type { Virsh } from '../libvirt/virsh.ts';
import { hostFeatures } from '../qemu/features.ts';
import { toolVersions } from '../qemu/versions.ts';
import { findKeyFiles, writeKeyFiles } from '../repository/keyFileCalls.ts';
import { deleteCloudStackBackup } from '../repository/deleteBackup.ts';
import type { Repositories } from '../repository/repositories.ts';
import { scanRepository } from '../repository/scan.ts';
import { describeDomain } from './describeDomain.ts';
import { jobStream } from './jobStream.ts';
import {
  requireField,
  requireZone,
  validBackup,
  validDelete,
  validKeyFiles,
  requireKeyId,
  validRepository,
  validRestore,
  validVerify,
} from './validate.ts';

export interface AgentParts {
  readonly zone: string;
  readonly hostName: string;
  readonly jobs: Jobs;
  readonly virsh: Virsh;
  readonly repositories: Repositories;
  readonly leftovers: Leftovers;
  readonly epochs: Epochs;
  /** Aborts when the agent stops. */
  readonly stopping: AbortSignal;
  readonly logger: Logger;
}

/** holdfast.agent.v1.AgentService. */
export function agentService(parts: AgentParts): AgentServiceServer {
  const { zone, jobs, virsh, repositories, leftovers, logger } = parts;
  const deletions = deletionsIn(repositories);
  const given = (ref: RepositoryRef | undefined): RepositoryRef =>
    validRepository(requireField(ref, 'repository'));
  return {
    takeBackup: jobStream(parts, 'TakeBackup', (start) => {
      return writeStart({ kind: 'TakeBackup', start: validBackup(start) });
    }),
    verifyBackup: jobStream(parts, 'VerifyBackup', (start) => {
      return writeStart({ kind: 'VerifyBackup', start: validVerify(start) });
    }),
    restoreBackup: jobStream(parts, 'RestoreBackup', (start) => {
      return writeStart({ kind: 'RestoreBackup', start: validRestore(start) });
    }),
    deleteBackup: unary(logger, async (request) => {
      requireZone(zone, request.zone);
      const valid = validDelete(request);
      const { cloudstack } = valid;
      const ref = given(request.repository);
      return cloudstack === undefined
        ? deletions.run(ref, valid)
        : repositories.use(ref, (repository) => deleteCloudStackBackup(repository, cloudstack.folder));
    }),
    cancelDeletion: unary(logger, async ({ zone: wanted, backupId }) => {
      requireZone(zone, wanted);
      return Promise.resolve({ begun: deletions.cancel(backupId) });
    }),
    getHost: unary(logger, async (request) => {
      const domains = await askedFor(virsh, request);
      return {
        name: parts.hostName,
        zone,
        toolVersions: { holdfast: version, ...(await toolVersions(virsh)) },
        features: await hostFeatures(),
        domains: await pMap(domains, (domain) => describeDomain(virsh, domain, request.domain !== ''), {
          concurrency: VIRSH_AT_ONCE,
        }),
      };
    }),
    prepareRepository: unary(logger, async (request) => {
      requireZone(zone, request.zone);
      return repositories.useAfresh(given(request.repository), (repository) => repository.prepare());
    }),
    getRepositoryStats: unary(logger, async (request) => {
      requireZone(zone, request.zone);
      return repositories.use(given(request.repository), async (repository) => {
        // Found out sooner by a question than by a write.
        await repository.answers();
        const space = await repository.probe();
        return {
          sizeBytes: BigInt(space.sizeBytes),
          freeBytes: BigInt(space.freeBytes),
          usedBytes: BigInt(space.usedBytes),
          path: repository.pathOf(''),
        };
      });
    }),
    scanRepository: serverStream(logger, async function* (request, { signal }) {
      requireZone(zone, request.zone);
      const either = AbortSignal.any([signal, parts.stopping]);
      yield* repositories.useFor(given(request.repository), (repository) =>
        scanRepository(repository, either),
      );
    }),
    findKeyFiles: unary(logger, async (request) => {
      requireZone(zone, request.zone);
      for (const keyId of request.keyIds) requireKeyId(keyId);
      return repositories.use(given(request.repository), (repository) => findKeyFiles(repository, request));
    }),
    writeKeyFiles: unary(logger, async (request) => {
      requireZone(zone, request.zone);
      const valid = validKeyFiles(request);
      return repositories.use(given(request.repository), (repository) => writeKeyFiles(repository, valid));
    }),
    listJobs: unary(logger, async () => ({ jobs: await jobs.list() })),
    findLeftovers: unary(logger, async (request) => {
      requireZone(zone, request.zone);
      return leftovers.find(request.repository && given(request.repository));
    }),
    removeLeftovers: unary(logger, async (request, { logger: log }) => {
      requireZone(zone, request.zone);
      const answer = await leftovers.remove(request, request.repository && given(request.repository));
      for (const { name, state, reason } of answer.leftovers)
        log.info('leftover', { leftover: name, state: leftoverStateToJSON(state), reason });
      return answer;
    }),
  };
}

async function askedFor(virsh: Virsh, request: GetHostRequest): Promise<readonly DomainId[]> {
  if (request.domain !== '') return [await findDomain(virsh, request.domain)];
  return request.withoutDomains ? [] : listDomains(virsh);
}
