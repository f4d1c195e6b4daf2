import {
  DeleteBackupRequest,
  ImageFormat,
  RestoreBackupRequest,
  VerifyBackupRequest,
} from '@holdfast/proto/holdfast/v1/backup.ts';
import type { OperationEvent } from '@holdfast/proto/holdfast/v1/event.ts';
import type { Operation } from '@holdfast/proto/holdfast/v1/operation.ts';
import { watch } from '../../harness/follow.ts';
import { until } from '../../lab/deadline.ts';
import type { Guest } from '../../lab/guest.ts';
import { REPOSITORY, ZONE, type Bed } from './bed.ts';
import { caseName, type Case } from './cases.ts';
import { outcomeOf } from './truth.ts';

/** MiB/s at which a copy takes a few seconds; one that is pushed has to go through all the holes too. */
const LIMIT_MIBPS = 12;
const PUSH_LIMIT_MIBPS = 24;

/** What an operation works on. */
export interface Work {
  readonly guest: Guest;
  /** Empty for a backup. */
  readonly backupId: string;
  /** An empty directory. */
  readonly restoreDirectory: string;
}

/**
 * Begins the operation of a case and returns once its moment has come: somebody is stopped there, or the copy runs.
 * Throws when it ends before.
 */
export async function beginUntil(bed: Bed, each: Case, work: Work): Promise<Operation> {
  const { client } = bed.holdfast;
  if (each.moment.kind !== 'progress') await bed.hold.at(each.moment);
  const operation = await begin(bed, each, work);
  const progress = each.moment.kind === 'progress' ? firstProgress(bed, operation.id) : undefined;
  const hasCome = (): Promise<boolean> => progress?.() ?? bed.hold.held().then((pid) => pid !== undefined);
  await until(
    `${caseName(each)} gets there`,
    60_000,
    async () => {
      if (await hasCome()) return true;
      const { state, message } = outcomeOf(await client.getOperation(operation.id));
      if (state !== 'not ended') throw new Error(`It ${state} before its moment. ${message}`);
      return undefined;
    },
    50,
  );
  return operation;
}

async function begin({ holdfast }: Bed, { operation, transport }: Case, work: Work): Promise<Operation> {
  const { client, agent } = holdfast;
  const { backups } = client;
  const { guest, backupId, restoreDirectory: directory } = work;
  switch (operation) {
    case 'backup':
      return client.startBackup({
        ...{ zone: ZONE, domain: guest.uuid, repository: REPOSITORY },
        settings: {
          'nas.backup.bandwidth.limit.mbps': String(transport === 'push' ? PUSH_LIMIT_MIBPS : LIMIT_MIBPS),
          ...(transport === 'stopped' ? {} : { 'nas.backup.transport': transport }),
        },
      });
    case 'verify':
      return present(
        await client.call(backups.verifyBackup.bind(backups), VerifyBackupRequest.fromPartial({ backupId })),
      );
    case 'restore':
      return present(
        await client.call(
          backups.restoreBackup.bind(backups),
          RestoreBackupRequest.fromPartial({
            ...{ backupId, host: agent.hostName, directory, format: ImageFormat.IMAGE_FORMAT_RAW },
            bandwidthLimitMibps: BigInt(LIMIT_MIBPS),
          }),
        ),
      );
    case 'delete':
      return present(
        await client.call(backups.deleteBackup.bind(backups), DeleteBackupRequest.fromPartial({ backupId })),
      );
  }
}

/** Says whether the first bytes were copied. */
function firstProgress({ holdfast }: Bed, operationId: string): () => Promise<boolean> {
  let seen = false;
  const onEvent = ({ event }: OperationEvent): undefined => {
    if (event?.$case === 'stageProgress' && (event.value.figures?.processedBytes ?? 0n) > 0n) seen = true;
  };
  // It breaks when the controller is killed, which is one of the faults.
  void watch(holdfast.client.operations, operationId, 0n, onEvent).catch(() => undefined);
  return () => Promise.resolve(seen);
}

function present({ operation }: { readonly operation?: Operation | undefined }): Operation {
  if (operation === undefined) throw new Error('An answer lacks its operation.');
  return operation;
}
