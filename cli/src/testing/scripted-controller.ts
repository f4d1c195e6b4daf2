import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { serverStream, unary } from '@holdfast/common/call.ts';
import { HoldfastError } from '@holdfast/common/errors.ts';
import { silentLogger } from '@holdfast/common/logger.ts';
import { serve } from '@holdfast/common/server.ts';
import { BackupServiceService, type TakeBackupRequest } from '@holdfast/proto/holdfast/v1/backup.ts';
import {
  LeftoverServiceService,
  type LeftoverProblem,
  type Leftover,
} from '@holdfast/proto/holdfast/v1/leftover.ts';
import type { OperationEvent } from '@holdfast/proto/holdfast/v1/event.ts';
import {
  Operation,
  OperationServiceService,
  type ListOperationsRequest,
  type UpdateOperationRequest,
  type WatchOperationRequest,
} from '@holdfast/proto/holdfast/v1/operation.ts';
import {
  RepositoryServiceService,
  type AddRepositoryRequest,
} from '@holdfast/proto/holdfast/v1/repository.ts';
import { ZoneServiceService, type SetSettingsRequest } from '@holdfast/proto/holdfast/v1/zone.ts';

/** A step of a watch: an event, an error that ends the stream, or something to wait for. */
export type Step = OperationEvent | Error | (() => Promise<void> | void);

/** What a scripted controller was asked, and its address. */
export interface ScriptedController {
  /** In the form that --controller takes. */
  readonly address: string;
  readonly taken: TakeBackupRequest[];
  readonly watched: WatchOperationRequest[];
  readonly updated: UpdateOperationRequest[];
  readonly cancelled: string[];
  readonly listed: ListOperationsRequest[];
  readonly settingsSet: SetSettingsRequest[];
  readonly repositoriesAdded: AddRepositoryRequest[];
  /** What doctor finds, and where it removes. */
  readonly leftovers: Leftover[];
  readonly problems: LeftoverProblem[];
  readonly leftoversRemoved: string[];
  readonly correlationIds: Set<string>;
  close(): Promise<void>;
}

/** A real server on a unix socket. Each watch plays the next script, and the last one again and again. */
export async function scriptedController(
  scripts: readonly (readonly Step[])[],
  operation: Operation = Operation.fromPartial({ id: 'op-1', domainName: 'vm1' }),
): Promise<ScriptedController> {
  const directory = await mkdtemp(join(tmpdir(), 'holdfast-cli-'));
  const seen = {
    taken: [] as TakeBackupRequest[],
    watched: [] as WatchOperationRequest[],
    updated: [] as UpdateOperationRequest[],
    cancelled: [] as string[],
    listed: [] as ListOperationsRequest[],
    settingsSet: [] as SetSettingsRequest[],
    repositoriesAdded: [] as AddRepositoryRequest[],
    leftovers: [] as Leftover[],
    problems: [] as LeftoverProblem[],
    leftoversRemoved: [] as string[],
    correlationIds: new Set<string>(),
  };
  const refuse = unary(silentLogger, () =>
    Promise.reject(new HoldfastError('BACKUP_NOT_FOUND', 'There is no such backup.')),
  );
  const backups = {
    takeBackup: unary(silentLogger, (request: TakeBackupRequest, { correlationId }) => {
      seen.taken.push(request);
      seen.correlationIds.add(correlationId);
      return Promise.resolve({ operation });
    }),
    ...{ verifyBackup: refuse, restoreBackup: refuse, deleteBackup: refuse },
    ...{ getBackup: refuse, listBackups: refuse },
  };
  const operations = {
    watchOperation: serverStream(
      silentLogger,
      async function* (request: WatchOperationRequest, { correlationId }) {
        seen.watched.push(request);
        seen.correlationIds.add(correlationId);
        for (const step of scripts[seen.watched.length - 1] ?? scripts.at(-1) ?? []) {
          if (step instanceof Error) throw step;
          if (typeof step === 'function') await step();
          else yield { event: step };
        }
      },
    ),
    updateOperation: unary(silentLogger, (request: UpdateOperationRequest) => {
      seen.updated.push(request);
      return Promise.resolve({ operation });
    }),
    cancelOperation: unary(silentLogger, ({ operationId }: { operationId: string }) => {
      seen.cancelled.push(operationId);
      return Promise.resolve({ operation });
    }),
    getOperation: unary(silentLogger, () => Promise.resolve({ operation })),
    listOperations: unary(silentLogger, (request: ListOperationsRequest) => {
      seen.listed.push(request);
      return Promise.resolve({ operations: [operation], nextPageToken: '' });
    }),
  };
  const zones = {
    setSettings: unary(silentLogger, (request: SetSettingsRequest) => {
      seen.settingsSet.push(request);
      return Promise.resolve({ settings: [] });
    }),
    ...{ createZone: refuse, listZones: refuse, getSettings: refuse },
  };
  const repositories = {
    addRepository: unary(silentLogger, (request: AddRepositoryRequest) => {
      seen.repositoriesAdded.push(request);
      return Promise.resolve({ repository: undefined });
    }),
    ...{ listRepositories: refuse, getRepository: refuse, removeRepository: refuse },
    setRepositoryCredentials: refuse,
  };
  const { leftovers, problems } = seen;
  const doctor = {
    listLeftovers: unary(silentLogger, () => Promise.resolve({ leftovers, problems })),
    removeLeftovers: unary(silentLogger, ({ host }: { host: string }) => {
      seen.leftoversRemoved.push(host);
      return Promise.resolve({ leftovers, problems });
    }),
  };
  const path = join(directory, 'controller.sock');
  const server = await serve(
    { kind: 'unix', path },
    [
      {
        name: 'holdfast.v1.BackupService',
        definition: BackupServiceService,
        implementation: backups,
      },
      {
        name: 'holdfast.v1.OperationService',
        definition: OperationServiceService,
        implementation: operations,
      },
      { name: 'holdfast.v1.ZoneService', definition: ZoneServiceService, implementation: zones },
      {
        name: 'holdfast.v1.RepositoryService',
        definition: RepositoryServiceService,
        implementation: repositories,
      },
      {
        name: 'holdfast.v1.LeftoverService',
        definition: LeftoverServiceService,
        implementation: doctor,
      },
    ],
    silentLogger,
  );
  return {
    ...seen,
    address: `unix://${path}`,
    close: async () => {
      await server.close(0);
      await rm(directory, { recursive: true, force: true });
    },
  };
}
