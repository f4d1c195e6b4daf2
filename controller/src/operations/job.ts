import {
  DeleteBackupRequest,
  RestoreBackupStart,
  TakeBackupStart,
  VerifyBackupStart,
} from '@holdfast/proto/holdfast/agent/v1/agent.ts';
import { OperationKind } from '@holdfast/proto/holdfast/v1/operation.ts';

/** What an agent is told to do for an operation. Holds secrets: it is stored sealed. */
export type Job =
  | { readonly kind: 'take'; readonly start: TakeBackupStart }
  | { readonly kind: 'verify'; readonly start: VerifyBackupStart }
  | { readonly kind: 'restore'; readonly start: RestoreBackupStart }
  | { readonly kind: 'delete'; readonly request: DeleteBackupRequest }
  /** What is to be done is in the tables of keys. */
  | { readonly kind: 'keys' };

/** A job that runs on a bidirectional stream. */
export type StreamedJob = Exclude<Job, { kind: 'delete' | 'keys' }>;

export function kindOf(job: Job): OperationKind {
  switch (job.kind) {
    case 'take':
      return OperationKind.OPERATION_KIND_TAKE_BACKUP;
    case 'verify':
      return OperationKind.OPERATION_KIND_VERIFY_BACKUP;
    case 'restore':
      return OperationKind.OPERATION_KIND_RESTORE_BACKUP;
    case 'delete':
      return OperationKind.OPERATION_KIND_DELETE_BACKUP;
    case 'keys':
      return OperationKind.OPERATION_KIND_UPDATE_KEYS;
  }
}

export function encodeJob(job: Job): Uint8Array {
  switch (job.kind) {
    case 'take':
      return TakeBackupStart.encode(job.start).finish();
    case 'verify':
      return VerifyBackupStart.encode(job.start).finish();
    case 'restore':
      return RestoreBackupStart.encode(job.start).finish();
    case 'delete':
      return DeleteBackupRequest.encode(job.request).finish();
    case 'keys':
      return new Uint8Array();
  }
}

export function decodeJob(kind: OperationKind, bytes: Uint8Array): Job {
  switch (kind) {
    case OperationKind.OPERATION_KIND_TAKE_BACKUP:
      return { kind: 'take', start: TakeBackupStart.decode(bytes) };
    case OperationKind.OPERATION_KIND_VERIFY_BACKUP:
      return { kind: 'verify', start: VerifyBackupStart.decode(bytes) };
    case OperationKind.OPERATION_KIND_RESTORE_BACKUP:
      return { kind: 'restore', start: RestoreBackupStart.decode(bytes) };
    case OperationKind.OPERATION_KIND_DELETE_BACKUP:
      return { kind: 'delete', request: DeleteBackupRequest.decode(bytes) };
    case OperationKind.OPERATION_KIND_UPDATE_KEYS:
      return { kind: 'keys' };
    case OperationKind.OPERATION_KIND_UNSPECIFIED:
    case OperationKind.UNRECOGNIZED:
      throw new TypeError(`an operation of kind ${kind} has no job`);
  }
}
