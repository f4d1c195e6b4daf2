import { rm } from 'node:fs/promises';
import type { Operation } from '@holdfast/proto/holdfast/v1/operation.ts';
import { until } from '../../lab/deadline.ts';
import { mountFaulty, type Faulty } from '../../lab/faulty.ts';
import { watchPulse, type Pulse } from '../support/pulse.ts';
import { aBackup, lookAfter } from './aftermath.ts';
import type { Bed } from './bed.ts';
import { beginUntil } from './begin.ts';
import { caseName, faultName, type Case } from './cases.ts';
import { inject } from './inject.ts';
import { deadlineMs, outcomeOf, truthfulReasons, type Outcome } from './truth.ts';

/** A case as it was: one row of the table. */
export interface Row {
  readonly case: string;
  readonly fault: string;
  readonly stage: string;
  readonly operation: string;
  readonly transport: string;
  readonly outcome: Pick<Outcome, 'state' | 'reason'>;
  /** The longest wait of a write of the running guest; null when that guest itself was killed. */
  readonly guestStallMs: number | null;
  /** Of that guest. */
  readonly failedWrites: number;
  /** What was left in the end. */
  readonly leftovers: readonly string[];
  /** What should not have been; empty: survived. */
  readonly problems: readonly string[];
  readonly seconds: number;
}

/** The longest that a write may wait: who holds it up is killed after 5 s. */
const MAX_STALL_MS = 6_500;

/**
 * QEMU gives the error of a scratch file system to whoever writes, until the backup is given up, a fraction of a second
 * later: nobody can help that.
 */
const LOST_WRITES = 10;

/** Does what the case says and looks at everything afterwards. The bed is as before, unless there were problems. */
export async function perform(bed: Bed, each: Case): Promise<Row> {
  const startedMs = performance.now();
  const { holdfast, running } = bed;
  await using stack = new AsyncDisposableStack();
  const guest = each.transport === 'stopped' ? bed.stopped : running;
  const backupId = each.operation === 'backup' ? '' : await aBackup(bed);
  const restoreDirectory = await holdfast.restoreDirectory();
  stack.defer(() => rm(restoreDirectory, { recursive: true }));
  const scratch = each.fault.kind === 'scratch' ? stack.use(await faultyScratch(bed)) : undefined;
  const work = { guest, backupId, restoreDirectory };
  const pulse = await watchPulse(running);

  const { id } = await beginUntil(bed, each, work).catch(async (error: unknown) => {
    await bed.hold.release();
    throw error;
  });
  const { overcome, heal } = await inject(bed, each.fault, id, scratch).finally(() => bed.hold.release());
  await overcome();
  const outcome = await endOf(bed, id, deadlineMs(each.fault));
  await heal();
  const writes = each.fault.what === 'guest QEMU' ? undefined : await pulse.end();
  await scratch?.[Symbol.asyncDispose]();
  const { leftovers, problems } = await lookAfter(bed, each, work, outcome);
  return {
    case: caseName(each),
    fault: faultName(each.fault),
    stage: each.stage,
    operation: each.operation,
    transport: each.transport,
    outcome: { state: outcome.state, reason: outcome.reason },
    guestStallMs: writes?.stallMs ?? null,
    failedWrites: writes?.failed ?? 0,
    leftovers,
    problems: [...problemsOf(each, outcome), ...harmOf(each, writes), ...problems],
    seconds: Math.round((performance.now() - startedMs) / 100) / 10,
  };
}

/** The controller may be away for a while. */
async function endOf(
  { holdfast: { client } }: Bed,
  operationId: string,
  milliseconds: number,
): Promise<Outcome> {
  let last: Operation | undefined;
  return until(
    'The operation ends',
    milliseconds,
    async () => {
      last = await client.getOperation(operationId).catch(() => undefined);
      if (last === undefined) return undefined;
      const outcome = outcomeOf(last);
      return outcome.state === 'not ended' ? undefined : outcome;
    },
    50,
  ).catch((error: unknown): Outcome => ({ state: 'not ended', reason: '', message: String(error) }));
}

function problemsOf(each: Case, { state, reason, message }: Outcome): readonly string[] {
  if (state === 'succeeded') return [];
  if (/unknown/i.test(message)) return [`It does not say what happened: ${message}`];
  if (state === 'failed' && truthfulReasons(each).includes(reason)) return [];
  return [`It ${state === 'not ended' ? 'did not end' : `${state} with ${reason}`}: ${message}`];
}

function harmOf({ fault }: Case, writes: Pulse | undefined): readonly string[] {
  if (writes === undefined) return [];
  const problems: string[] = [];
  if (writes.writes === 0) problems.push('The guest wrote nothing.');
  if (writes.failed > (fault.kind === 'scratch' && fault.what === 'read-only' ? LOST_WRITES : 0))
    problems.push(`${writes.failed} writes of the guest failed.`);
  if (writes.stallMs > MAX_STALL_MS) problems.push(`A write of the guest waited for ${writes.stallMs} ms.`);
  return problems;
}

/** Mounts a file system with faults where the agent's scratch space is. */
async function faultyScratch({ holdfast }: Bed): Promise<Faulty> {
  const { scratchDirectory } = holdfast.agent;
  return mountFaulty(scratchDirectory, `${scratchDirectory}-files`);
}
