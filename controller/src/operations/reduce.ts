import { fromStatus } from '@holdfast/common/errors.ts';
import { Stage, type OperationEvent, type StageFigures } from '@holdfast/proto/holdfast/v1/event.ts';
import {
  OperationState,
  type Operation,
  type OperationStage,
} from '@holdfast/proto/holdfast/v1/operation.ts';

/** Whether an operation in this state is over. */
export function isEnded(state: OperationState): boolean {
  switch (state) {
    case OperationState.OPERATION_STATE_SUCCEEDED:
    case OperationState.OPERATION_STATE_FAILED:
    case OperationState.OPERATION_STATE_CANCELLED:
      return true;
    case OperationState.OPERATION_STATE_UNSPECIFIED:
    case OperationState.OPERATION_STATE_PENDING:
    case OperationState.OPERATION_STATE_RUNNING:
    case OperationState.OPERATION_STATE_VERIFYING:
    case OperationState.OPERATION_STATE_PAUSED:
    case OperationState.OPERATION_STATE_INTERRUPTED:
    case OperationState.OPERATION_STATE_CANCELLING:
    case OperationState.UNRECOGNIZED:
      return false;
  }
}

/** Whether an event is the last one. */
export function isLast(event: Pick<OperationEvent, 'event'>): boolean {
  return event.event?.$case === 'completed' || event.event?.$case === 'failed';
}

/** The operation as it is after an event. */
export function applyEvent(operation: Operation, event: OperationEvent): Operation {
  const next = { ...operation, lastSequence: event.sequence };
  const happened = event.event;
  switch (happened?.$case) {
    case 'queued':
      return { ...operation, queued: happened.value };
    case 'shareApplied':
      return { ...operation, bandwidthShareBytesPerSecond: happened.value.bytesPerSecond };
    case 'keysProgress':
      return { ...next, keysProgress: happened.value };
    case 'placed':
      return { ...next, host: happened.value.host, hostReason: happened.value.reason };
    case 'accepted':
      return { ...next, state: unlessCancelling(operation, OperationState.OPERATION_STATE_RUNNING) };
    case 'stageStarted':
      return atWork({ ...next, stages: withStarted(operation.stages, happened.value.stage) });
    case 'stageProgress': {
      const { stage, figures } = happened.value;
      return { ...next, stages: withStage(operation.stages, stage, figures, false) };
    }
    case 'stageFinished': {
      const { stage, figures } = happened.value;
      return atWork({ ...next, stages: withStage(operation.stages, stage, figures, true) });
    }
    case 'warning':
      return { ...next, warnings: [...operation.warnings, happened.value] };
    case 'bandwidthApplied':
      return { ...next, bandwidthLimitMibps: happened.value.limitMibps };
    case 'paused':
      return { ...next, state: unlessCancelling(operation, OperationState.OPERATION_STATE_PAUSED) };
    case 'resumed':
      return atWork({ ...next, state: unlessCancelling(operation, OperationState.OPERATION_STATE_RUNNING) });
    case 'interrupted':
      return interrupted(next);
    case 'reattached':
      return reattached(next);
    case 'damageFound':
      return { ...next, damages: [...operation.damages, happened.value] };
    case 'repositoryStalled':
      return { ...next, stalledSince: happened.value.since ?? event.time };
    case 'repositoryAnswered':
      return { ...next, stalledSince: undefined };
    case 'completed':
      return {
        ...next,
        lastKnownState: OperationState.OPERATION_STATE_UNSPECIFIED,
        stalledSince: undefined,
        state: OperationState.OPERATION_STATE_SUCCEEDED,
        result: happened.value,
        endTime: event.time,
      };
    case 'failed': {
      const { reason, metadata } = fromStatus(happened.value);
      return {
        ...next,
        lastKnownState: OperationState.OPERATION_STATE_UNSPECIFIED,
        stalledSince: undefined,
        state:
          reason === 'CANCELLED'
            ? OperationState.OPERATION_STATE_CANCELLED
            : OperationState.OPERATION_STATE_FAILED,
        error: happened.value,
        failedStage: operation.stages.find((each) => !each.finished)?.stage ?? Stage.STAGE_UNSPECIFIED,
        failedDisk: metadata['disk'] ?? '',
        endTime: event.time,
      };
    }
    case undefined:
      return next;
  }
}

function interrupted(operation: Operation): Operation {
  switch (operation.state) {
    case OperationState.OPERATION_STATE_PENDING:
    case OperationState.OPERATION_STATE_RUNNING:
    case OperationState.OPERATION_STATE_VERIFYING:
    case OperationState.OPERATION_STATE_PAUSED:
      return {
        ...operation,
        state: OperationState.OPERATION_STATE_INTERRUPTED,
        lastKnownState: operation.state,
      };
    default:
      return operation;
  }
}

function reattached(operation: Operation): Operation {
  const { state, lastKnownState } = operation;
  const known = { ...operation, lastKnownState: OperationState.OPERATION_STATE_UNSPECIFIED };
  return state === OperationState.OPERATION_STATE_INTERRUPTED ? { ...known, state: lastKnownState } : known;
}

/** The operation with the state that goes with its stages, unless it is paused or not yet at work. */
function atWork(operation: Operation): Operation {
  switch (operation.state) {
    case OperationState.OPERATION_STATE_RUNNING:
    case OperationState.OPERATION_STATE_VERIFYING: {
      const verifies = operation.stages.some(
        ({ stage, finished }) => stage === Stage.STAGE_CHECK && !finished,
      );
      const state = verifies
        ? OperationState.OPERATION_STATE_VERIFYING
        : OperationState.OPERATION_STATE_RUNNING;
      return { ...operation, state };
    }
    default:
      return operation;
  }
}

/** Only its end ends the wish to cancel. */
function unlessCancelling({ state }: Operation, next: OperationState): OperationState {
  return state === OperationState.OPERATION_STATE_CANCELLING ? state : next;
}

/** A stage that starts again starts from nothing, and those after it are still to come. */
function withStarted(stages: readonly OperationStage[], stage: Stage): OperationStage[] {
  const known = stages.findIndex((each) => each.stage === stage);
  const before = known === -1 ? stages : stages.slice(0, known);
  return [...before, { stage, finished: false, figures: undefined }];
}

function withStage(
  stages: readonly OperationStage[],
  stage: Stage,
  figures: StageFigures | undefined,
  finished: boolean,
): OperationStage[] {
  const known = stages.find((each) => each.stage === stage);
  const changed = { stage, finished, figures: figures ?? known?.figures };
  return known === undefined
    ? [...stages, changed]
    : stages.map((each) => (each.stage === stage ? changed : each));
}
