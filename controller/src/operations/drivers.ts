import { setTimeout as sleep } from 'node:timers/promises';
import { fromServiceError, toStatus } from '@holdfast/common/errors.ts';
import type { Logger } from '@holdfast/common/logger.ts';
import type { Control } from '@holdfast/proto/holdfast/agent/v1/agent.ts';
import type { Admission } from '../admission/admission.ts';
import type { Budget } from '../admission/budget.ts';
import type { Agents } from '../fleet/agents.ts';
import type { Hosts } from '../fleet/hosts.ts';
import type { Repositories } from '../fleet/repositories.ts';
import type { Keys } from '../keys/keys.ts';
import type { Store } from '../store/store.ts';
import type { Settings } from '../zones/settings.ts';
import type { AgentStream } from './agent-stream.ts';
import { carryOutDelete } from './carry-out-delete.ts';
import { carryOutKeys } from './carry-out-keys.ts';
import { followJob } from './follow.ts';
import type { ActiveOperation, Journal } from './journal.ts';
import { judge } from './judge.ts';
import { newerEpoch } from './newer-epoch.ts';
import { settleHost } from './settle.ts';
import { takeTurn } from './take-turn.ts';

const SECOND = 1_000;
const FIRST_RETRY_MS = 0.25 * SECOND;
const LAST_RETRY_MS = 5 * SECOND;
/** So many tries in a row fail before the user is told that the agent is away. */
const FAILURES_BEFORE_WARNING = 2;

/** What brings operations to their ends, in the background. */
export interface Drivers {
  /** Drives an operation until it ends or another controller leads it. */
  drive(operationId: string): void;
  /** Whether it is driven here. */
  drives(operationId: string): boolean;
  /** Acknowledges ends that agents still keep. */
  settle(): Promise<void>;
  /** Looks again at what is led here: wishes may have come, and leaders changed, without a word. */
  lookAgain(): Promise<void>;
  /** Drops all streams, so that each driver looks whether its operation is still led here. */
  dropAll(): void;
  /** Passes a command on. False when there is no stream to the agent just now. */
  send(operationId: string, command: NonNullable<Control['command']>): boolean;
  /** Lets go of all streams, and waits until nothing more is written. Jobs go on at their agents. */
  close(): Promise<void>;
}

export interface DriverParts {
  readonly store: Store;
  readonly settings: Settings;
  readonly journal: Journal;
  readonly hosts: Hosts;
  readonly agents: Agents;
  readonly repositories: Repositories;
  readonly keys: Keys;
  readonly admission: Admission;
  readonly budget: Budget;
  /** An operation is not driven here any more: it has ended, or another controller leads it. */
  readonly onLeft: (operationId: string) => void;
  readonly now: () => Date;
  readonly logger: Logger;
}

export function createDrivers(parts: DriverParts): Drivers {
  const streams = new Map<string, AgentStream>();
  const running = new Map<string, Promise<void>>();
  /** To be driven once more when their drivers, which may be on their way out, have ended. */
  const again = new Set<string>();
  const stop = new AbortController();
  const context = { ...parts, streams, keyTurns: new Map<string, Promise<void>>(), stopping: stop.signal };
  const settling: Promise<void>[] = [];

  const inBackground = (work: Promise<void>, complaint: string): Promise<void> =>
    work.catch((error: unknown) => {
      if (!stop.signal.aborted) parts.logger.error(complaint, { error });
    });

  const drive = (operationId: string): void => {
    if (stop.signal.aborted) return;
    if (running.has(operationId)) {
      again.add(operationId);
      return;
    }
    const run = inBackground(driveToEnd(context, operationId), 'driver failed').finally(() => {
      running.delete(operationId);
      if (again.delete(operationId)) drive(operationId);
      parts.budget.leave(operationId);
      parts.admission.changed();
      parts.onLeft(operationId);
    });
    running.set(operationId, run);
  };
  return {
    drive,
    drives: (operationId) => running.has(operationId),
    lookAgain: async () => {
      for (const [operationId, stream] of streams) {
        const active = await parts.journal.active(operationId);
        if (active === undefined) stream.drop();
        else if (active.cancelWanted) stream.control({ $case: 'cancel', value: {} });
      }
    },
    dropAll: () => {
      for (const stream of streams.values()) stream.drop();
    },
    settle: async () => {
      for (const host of await parts.hosts.list('')) {
        settling.push(inBackground(settleHost(context, host), 'settling failed'));
      }
    },
    send: (operationId, command) => {
      const stream = streams.get(operationId);
      stream?.control(command);
      return stream !== undefined;
    },
    close: async () => {
      stop.abort();
      await Promise.all([...running.values(), ...settling]);
    },
  };
}

type Context = DriverParts & {
  readonly streams: Map<string, AgentStream>;
  readonly keyTurns: Map<string, Promise<void>>;
  readonly stopping: AbortSignal;
};

async function driveToEnd(context: Context, operationId: string): Promise<void> {
  const logger = context.logger.child({ operationId });
  const tries = { failed: 0 };
  while (!context.stopping.aborted) {
    try {
      if (await tryOnce(context, operationId, tries)) return;
    } catch (error) {
      logger.error('driving the operation failed', { error });
    }
    tries.failed += 1;
    const delay = Math.min(FIRST_RETRY_MS * 2 ** Math.min(tries.failed - 1, 10), LAST_RETRY_MS);
    await sleep(delay, undefined, { signal: context.stopping });
  }
}

/** Follows the operation until its stream ends or breaks. True when nothing is left to do. */
async function tryOnce(context: Context, operationId: string, tries: { failed: number }): Promise<boolean> {
  const { journal, stopping } = context;
  let active = await journal.active(operationId);
  if (active === undefined) return true;
  if (active.job.kind === 'keys') {
    await carryOutKeys(context, active);
    return true;
  }
  try {
    if (!active.startSent) {
      const turn = await takeTurn(context, active);
      if (turn === undefined) return true;
      active = turn;
    }
    await attempt(context, active, () => {
      tries.failed = 0;
    });
  } catch (error) {
    if (stopping.aborted) return true;
    const led = await journal.active(operationId);
    // Ended, or another controller's.
    if (led === undefined) return true;
    const newer = newerEpoch(error);
    if (newer !== undefined) {
      await journal.raiseEpoch(operationId, newer);
      return false;
    }
    if (await endIfFinal(context, led, error)) return true;
    if (tries.failed === 0) {
      loggerOf(context, active).warn('lost the agent; attaching again', { error: fromServiceError(error) });
    }
  }
  // A stream may end well before the job does, such as when the agent restarts.
  const after = await journal.active(operationId);
  if (after === undefined) return true;
  if (!after.startSent) await context.admission.giveBack(after.operation);
  if (tries.failed + 1 === FAILURES_BEFORE_WARNING) await warn(context, active);
  return false;
}

async function attempt(context: Context, active: ActiveOperation, onContact: () => void): Promise<void> {
  const { job } = active;
  if (job.kind === 'keys') throw new TypeError('no agent leads an update of keys');
  if (job.kind === 'delete') await carryOutDelete(context, active, job.request);
  else await followJob(context, active, job, onContact);
}

/** Ends the operation when the error says something final of it. */
async function endIfFinal(context: Context, active: ActiveOperation, thrown: unknown): Promise<boolean> {
  const judgement = judge(thrown, active);
  if (judgement.kind === 'retry') return false;
  await context.journal.append(active.operation.id, {
    event: { $case: 'failed', value: toStatus(judgement.error) },
    time: context.now(),
  });
  loggerOf(context, active).info('operation ended', {
    reason: judgement.error.reason,
    detail: judgement.error.message,
  });
  return true;
}

/** Says that the agent is away; what it was told of is not known any more. */
async function warn(context: Context, { operation, startSent }: ActiveOperation): Promise<void> {
  const message = `The agent of host ${operation.host} does not answer; the operation goes on as soon as it does.`;
  await context.journal.append(operation.id, {
    event: { $case: 'warning', value: { reason: 'AGENT_UNREACHABLE', message, target: '' } },
    time: context.now(),
  });
  if (!startSent) return;
  await context.journal.append(operation.id, {
    event: { $case: 'interrupted', value: { host: operation.host } },
    time: context.now(),
  });
}

function loggerOf(context: Context, { operation }: ActiveOperation): Logger {
  return context.logger.child({ correlationId: operation.correlationId, operationId: operation.id });
}
