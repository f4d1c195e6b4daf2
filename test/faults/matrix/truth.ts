import { fromStatus } from '@holdfast/common/errors.ts';
import { OperationState, type Operation } from '@holdfast/proto/holdfast/v1/operation.ts';
import type { Case, Fault } from './cases.ts';

/** How an operation ended. */
export interface Outcome {
  readonly state: 'succeeded' | 'failed' | 'cancelled' | 'not ended';
  /** Empty when it succeeded. */
  readonly reason: string;
  readonly message: string;
}

export function outcomeOf({ state, error }: Operation): Outcome {
  const { reason, message } = error === undefined ? { reason: '', message: '' } : fromStatus(error);
  switch (state) {
    case OperationState.OPERATION_STATE_SUCCEEDED:
      return { state: 'succeeded', reason: '', message: '' };
    case OperationState.OPERATION_STATE_FAILED:
      return { state: 'failed', reason, message };
    case OperationState.OPERATION_STATE_CANCELLED:
      return { state: 'cancelled', reason, message };
    default:
      return { state: 'not ended', reason, message };
  }
}

/** The reasons that say what happened. Success is as true as any of them, when what came out is good. */
export function truthfulReasons({ fault, transport }: Case): readonly string[] {
  const pushed = transport === 'push';
  switch (fault.kind) {
    case 'kill -9':
      return {
        // Whoever asked does not get to hear of them.
        agent: [],
        controller: [],
        runner: ['RUNNER_DIED'],
        QSD: pushed ? ['QEMU_FAILED', 'REPOSITORY_FAILED'] : ['QEMU_FAILED'],
        libvirtd: ['LIBVIRT_FAILED', 'QUIESCE_FAILED'],
        'guest QEMU': ['DOMAIN_STOPPED', 'DOMAIN_STATE'],
        'repository helper': ['REPOSITORY_FAILED'],
      }[fault.what];
    case 'NAS':
      return {
        hang: ['REPOSITORY_STALLED'],
        full: ['REPOSITORY_FULL'],
        EIO: ['REPOSITORY_FAILED'],
        gone: ['REPOSITORY_FAILED', 'REPOSITORY_UNUSABLE'],
        'read-only': ['REPOSITORY_UNUSABLE', 'REPOSITORY_FAILED'],
        // A pushed backup is given up before a write of the guest waits for it too long.
        slow: pushed ? ['REPOSITORY_STALLED'] : [],
        stale: ['REPOSITORY_FAILED', 'REPOSITORY_STALLED'],
      }[fault.what];
    case 'scratch':
      return { full: ['SCRATCH_FULL'], 'read-only': ['SCRATCH_FAILED'] }[fault.what];
  }
}

/** How long an operation may take from the fault on, once the fault is over if it is one that ends. */
export function deadlineMs({ kind, what }: Fault): number {
  return kind === 'NAS' && (what === 'hang' || what === 'slow') ? 90_000 : 60_000;
}
