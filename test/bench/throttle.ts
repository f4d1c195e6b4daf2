import type { OperationEvent } from '@holdfast/proto/holdfast/v1/event.ts';
import { ListOperationsRequest } from '@holdfast/proto/holdfast/v1/operation.ts';
import { Stage } from '@holdfast/proto/holdfast/v1/event.ts';
import { succeeded } from '../harness/follow.ts';
import { MiB } from '../lab/spec.ts';
import type { Bed } from './bed.ts';

const LIMIT_MIBPS = 40;
const CHANGED_MIBPS = 120;
/** Where the limit is changed. */
const CHANGE_AT_BYTES = 480 * MiB;
const WINDOW_MS = 3_000;
const SETTLED_MS = 1_000;

interface Reading {
  /** Since the copy began, by the agent's clock. */
  readonly ms: number;
  /** Since the epoch, by the clock of this machine, which is the agent's too. */
  readonly at: number;
  readonly bytes: number;
}

export interface Throttled {
  /** The largest relative error of the limit over any window after the first second. */
  readonly error: number;
  /** From the request of a change to the first reading since whose predecessor the new rate is nearer than the old. */
  readonly changeMs: number;
}

/** A limited backup of incompressible data without holes, whose limit is changed in the middle. */
export async function throttle(bed: Bed): Promise<Throttled> {
  const { client } = bed.holdfast;
  const readings: Reading[] = [];
  let changedAt = 0;
  const settings = { 'nas.backup.bandwidth.limit.mbps': String(LIMIT_MIBPS) };
  const followed = await client.takeBackup(
    { zone: 'z1', domain: bed.resting.name, settings },
    async (event) => {
      const reading = readingOf(event);
      if (reading === undefined) return;
      readings.push(reading);
      if (changedAt !== 0 || reading.bytes < CHANGE_AT_BYTES) return;
      changedAt = Date.now();
      const { operations } = client;
      const operationId = await activeOperation(bed);
      await client.call(operations.updateOperation.bind(operations), {
        operationId,
        change: { $case: 'bandwidthLimitMibps', value: BigInt(CHANGED_MIBPS) },
      });
    },
  );
  succeeded(await client.deleteBackup(succeeded(followed).backupId));
  return {
    error: largestError(readings.filter(({ at }) => at <= changedAt)),
    changeMs: changeTime(readings, changedAt),
  };
}

async function activeOperation(bed: Bed): Promise<string> {
  const { client } = bed.holdfast;
  const request = ListOperationsRequest.fromPartial({ activeOnly: true });
  const answer = await client.call(client.operations.listOperations.bind(client.operations), request);
  return answer.operations[0]?.id ?? '';
}

function readingOf({ time, event }: OperationEvent): Reading | undefined {
  if (event?.$case !== 'stageProgress' || event.value.stage !== Stage.STAGE_BLOCKJOB) return undefined;
  const { figures } = event.value;
  if (figures === undefined || time === undefined) return undefined;
  return { ms: Number(figures.elapsedMs), at: time.getTime(), bytes: Number(figures.inputBytes) };
}

function largestError(readings: readonly Reading[]): number {
  const settled = readings.filter(({ ms }) => ms >= SETTLED_MS);
  const errors = settled.flatMap((from) => {
    const to = settled.find(({ ms }) => ms >= from.ms + WINDOW_MS);
    return to === undefined ? [] : [Math.abs(rate(from, to) / LIMIT_MIBPS - 1)];
  });
  return Math.max(...errors);
}

function changeTime(readings: readonly Reading[], changedAt: number): number {
  const found = readings.find((to, index) => {
    const from = readings[index - 1];
    return to.at > changedAt && from !== undefined && rate(from, to) > (LIMIT_MIBPS + CHANGED_MIBPS) / 2;
  });
  return found === undefined ? NaN : found.at - changedAt;
}

/** MiB/s. */
function rate(from: Reading, to: Reading): number {
  return (to.bytes - from.bytes) / MiB / ((to.ms - from.ms) / 1000);
}
