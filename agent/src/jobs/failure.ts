import { HoldfastError, toStatus } from '@holdfast/common/errors.ts';
import type { Status } from '@holdfast/proto/google/rpc/status.ts';
import { ProgramFailed } from '../process/run.ts';
import { QmpError } from '../qemu/qmp.ts';
import { JobCancelled } from './control.ts';
import type { JobSpec } from './spec.ts';

/** The status with which a job fails. */
export function toFailure(error: unknown, spec: JobSpec): Status {
  return toStatus(known(error, spec));
}

function known(error: unknown, spec: JobSpec): unknown {
  if (error === 'RUNNER_DIED') {
    return new HoldfastError(
      'RUNNER_DIED',
      `The process that ran ${spec.kind} on host ${spec.hostName} was killed. What it had made was removed. Try again.`,
    );
  }
  if (error instanceof JobCancelled) return new HoldfastError('CANCELLED', error.message);
  if (error instanceof QmpError) {
    return new HoldfastError('QEMU_FAILED', `QEMU refused ${error.message}`, { cause: error });
  }
  if (error instanceof ProgramFailed)
    return new HoldfastError('QEMU_FAILED', error.message, { cause: error });
  return error;
}
