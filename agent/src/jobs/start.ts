import { HoldfastError } from '@holdfast/common/errors.ts';
import {
  RestoreBackupStart,
  TakeBackupStart,
  VerifyBackupStart,
  type JobHeader,
} from '@holdfast/proto/holdfast/agent/v1/agent.ts';
import type { Completed, Stage } from '@holdfast/proto/holdfast/v1/event.ts';
import type { RepositoryCredentials } from '@holdfast/proto/holdfast/v1/repository.ts';
import type { JobContext, StageRun } from '../stages/context.ts';
import { RESTORE_STAGES, restoreBackup } from './restoreBackup.ts';
import { limitsOf, type Limits } from './limits.ts';
import type { JobKind } from './spec.ts';
import { backupStages, takeBackup } from './takeBackup.ts';
import { VERIFY_STAGES, verifyBackup } from './verifyBackup.ts';

/** A job that is about to run. */
export interface StartedJob {
  readonly header: JobHeader;
  readonly limitMibps: number;
  readonly limits: Limits;
  readonly shareBytesPerSecond: number;
  readonly stages: readonly Stage[];
  /** Those of its repository. */
  readonly credentials: RepositoryCredentials | undefined;
  run(context: JobContext): StageRun<Completed>;
}

/** A start message as JSON, with its secrets: it goes through a pipe only. */
export function writeStart(
  start:
    | { readonly kind: 'TakeBackup'; readonly start: TakeBackupStart }
    | { readonly kind: 'VerifyBackup'; readonly start: VerifyBackupStart }
    | { readonly kind: 'RestoreBackup'; readonly start: RestoreBackupStart },
): string {
  switch (start.kind) {
    case 'TakeBackup':
      return JSON.stringify(TakeBackupStart.toJSON(start.start));
    case 'VerifyBackup':
      return JSON.stringify(VerifyBackupStart.toJSON(start.start));
    case 'RestoreBackup':
      return JSON.stringify(RestoreBackupStart.toJSON(start.start));
  }
}

/** The job that a start message asks for. */
export function readStart(kind: JobKind, json: string): StartedJob {
  const message: unknown = JSON.parse(json);
  switch (kind) {
    case 'TakeBackup': {
      const start = TakeBackupStart.fromJSON(message);
      return {
        header: headerOf(start.header),
        limitMibps: Number(start.options?.bandwidthLimitMibps ?? 0n),
        limits: limitsOf(start.limits),
        shareBytesPerSecond: Number(start.options?.bandwidthShareBytesPerSecond ?? 0n),
        stages: backupStages(start),
        credentials: start.repository?.credentials,
        run: (context) => takeBackup(context, start),
      };
    }
    case 'VerifyBackup': {
      const start = VerifyBackupStart.fromJSON(message);
      return {
        header: headerOf(start.header),
        limitMibps: Number(start.bandwidthLimitMibps),
        limits: limitsOf(start.limits),
        shareBytesPerSecond: Number(start.bandwidthShareBytesPerSecond),
        stages: VERIFY_STAGES,
        credentials: start.backup?.repository?.credentials,
        run: (context) => verifyBackup(context, start),
      };
    }
    case 'RestoreBackup': {
      const start = RestoreBackupStart.fromJSON(message);
      return {
        header: headerOf(start.header),
        limitMibps: Number(start.bandwidthLimitMibps),
        limits: limitsOf(start.limits),
        shareBytesPerSecond: Number(start.bandwidthShareBytesPerSecond),
        stages: RESTORE_STAGES,
        credentials: start.backup?.repository?.credentials,
        run: (context) => restoreBackup(context, start),
      };
    }
  }
}

function headerOf(header: JobHeader | undefined): JobHeader {
  if (header === undefined) throw new HoldfastError('INVALID_REQUEST', 'header is missing.');
  return header;
}
