import { grpcTarget } from '@holdfast/common/address.ts';
import { CommandError } from '../command-error.ts';
import { DEFAULT_CONTROLLER, type Running } from '../context.ts';
import { call } from '../session.ts';
import { failureOf, followEvents, isLast } from './events.ts';
import { listenForInterrupts } from './interrupt.ts';
import { openView } from './view.ts';

/**
 * Shows an operation until it ends.
 *
 * @throws HoldfastError that it ended with, CommandError INTERRUPTED when it was left running.
 */
export async function followOperation(
  running: Running,
  operationId: string,
  afterSequence = 0n,
): Promise<void> {
  const { session, terminal } = running;
  const view = openView(running);
  const left = new AbortController();
  const stopListening = listenForInterrupts({
    terminal,
    view,
    ask: terminal.interactive && terminal.out.isTerminal && !running.json,
    cancel: async () => {
      await call(session, session.operations.cancelOperation.bind(session.operations), { operationId });
    },
    leave: () => {
      left.abort();
    },
  });
  let ended = false;
  let failure: Error | undefined;
  try {
    const events = followEvents(session, terminal, {
      operationId,
      afterSequence,
      signal: left.signal,
      notice: (text) => {
        view.notice(text);
      },
    });
    for await (const event of events) {
      view.event(event);
      ended = isLast(event);
      failure = failureOf(event);
    }
  } finally {
    stopListening();
    view.close();
  }
  if (failure !== undefined) throw failure;
  if (!ended) throw new CommandError('INTERRUPTED', leftRunning(running, operationId));
}

/** How to come back to an operation. */
export function comeBack(running: Running, operationId: string): string {
  const target = grpcTarget(running.session.address);
  const controller =
    target === DEFAULT_CONTROLLER.replace('unix://', 'unix:') ? '' : ` --controller ${target}`;
  return (
    `Follow it with: holdfast${controller} watch ${operationId}; ` +
    `cancel it with: holdfast${controller} cancel ${operationId}`
  );
}

function leftRunning(running: Running, operationId: string): string {
  return `Operation ${operationId} goes on. ${comeBack(running, operationId)}`;
}
