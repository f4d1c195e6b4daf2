import assert from 'node:assert/strict';
import { HoldfastError } from '@holdfast/common/errors.ts';
import { Stage, type OperationEvent } from '@holdfast/proto/holdfast/v1/event.ts';
import { createPaint } from '../format/paint.ts';
import { accepted, begun, deleted, event, failed, finished, progress } from '../testing/events.ts';
import { currentRate, timeLeftMs } from './figures.ts';
import { plainLines, plainStart } from './lines.ts';
import { renderProgress } from './render.ts';
import { advance, noProgress, type Progress } from './state.ts';

const { STAGE_PREPARE, STAGE_BLOCKJOB, STAGE_CONVERT } = Stage;
const MIB = 1024n ** 2n;

function after(...events: OperationEvent[]): Progress {
  return events.reduce(advance, noProgress);
}

function rendered(state: Progress, columns = 120): string[] {
  return renderProgress(state, columns, createPaint(false));
}

function plain(...events: OperationEvent[]): string[] {
  let state = plainStart;
  return events.flatMap((each) => {
    const next = plainLines(state, each);
    state = next.state;
    return next.lines;
  });
}

describe('progress', () => {
  const start = [accepted(1, STAGE_PREPARE, STAGE_BLOCKJOB, STAGE_CONVERT), begun(2, STAGE_BLOCKJOB)];

  it('shows a line for each stage of the plan', () => {
    assert.deepEqual(rendered(after(...start)), [
      'prepare   [....................] waiting',
      'blockjob  [....................] running',
      'convert   [....................] waiting',
    ]);
  });

  it('shows bytes, percent, current speed and time left', () => {
    const state = after(
      ...start,
      progress(2, STAGE_BLOCKJOB, {
        processedBytes: 100n * MIB,
        totalBytes: 400n * MIB,
        inputBytes: 50n * MIB,
        elapsedMs: 1000n,
      }),
      progress(2, STAGE_BLOCKJOB, {
        processedBytes: 200n * MIB,
        totalBytes: 400n * MIB,
        inputBytes: 90n * MIB,
        elapsedMs: 2000n,
      }),
    );
    assert.equal(
      rendered(state)[1],
      'blockjob  [##########..........]  50.0%  90.0 MiB  40.0 MiB/s  2.0s left',
    );
  });

  it('takes the current speed from the last few seconds only', () => {
    const steps = Array.from({ length: 20 }, (_, at) =>
      progress(2, STAGE_BLOCKJOB, {
        processedBytes: BigInt(at < 10 ? at * 100 : 900 + (at - 9)) * MIB,
        totalBytes: 2000n * MIB,
        inputBytes: BigInt(at < 10 ? at * 100 : 900 + (at - 9)) * MIB,
        elapsedMs: BigInt(at * 1000),
      }),
    );
    const stage = after(...start, ...steps).stages[1];
    assert.ok(stage);
    assert.equal(currentRate(stage), Number(MIB));
    assert.equal(timeLeftMs(stage), (2000 - 910) * 1000);
  });

  it('shows the average and the ratio at the end, and ignores progress that comes late', () => {
    const state = after(
      ...start,
      finished(3, STAGE_CONVERT, {
        processedBytes: 400n * MIB,
        totalBytes: 400n * MIB,
        inputBytes: 200n * MIB,
        outputBytes: 80n * MIB,
        elapsedMs: 4000n,
      }),
      progress(3, STAGE_CONVERT, { processedBytes: 1n, elapsedMs: 1n }),
    );
    assert.equal(
      rendered(state)[2],
      'convert   [####################]   done  200.0 MiB -> 80.0 MiB  50.0 MiB/s on average  in 4.0s  ratio 2.50',
    );
  });

  it('shows the limit, a pause without a speed, and does not count the pause as slowness', () => {
    const figures = {
      processedBytes: 100n * MIB,
      totalBytes: 400n * MIB,
      inputBytes: 50n * MIB,
      elapsedMs: 1000n,
    };
    const paused = after(
      ...start,
      event(3, { $case: 'bandwidthApplied', value: { limitMibps: 40n } }),
      progress(3, STAGE_BLOCKJOB, figures),
      event(4, { $case: 'paused', value: {} }),
    );
    assert.equal(rendered(paused).at(-1), 'PAUSED  limit 40 MiB/s');
    assert.equal(rendered(paused)[1], 'blockjob  [#####...............]  25.0%  50.0 MiB');
    const resumed = advance(paused, event(5, { $case: 'resumed', value: {} }));
    assert.equal(rendered(resumed).at(-1), 'limit 40 MiB/s');
    assert.deepEqual(resumed.stages[1]?.recent, []);
  });

  it('never says 100 % before it is, and fits the terminal', () => {
    const state = after(
      ...start,
      progress(2, STAGE_BLOCKJOB, { processedBytes: 99_999n, totalBytes: 100_000n, elapsedMs: 1n }),
    );
    assert.match(rendered(state)[1] ?? '', / 99\.9%/);
    for (const line of rendered(state, 30)) assert.ok(line.length < 30);
  });

  it('marks the stage in which an operation failed', () => {
    const state = after(...start, failed(3, new HoldfastError('REPOSITORY_FULL', 'full')));
    assert.equal(rendered(state)[1], 'blockjob  [....................] not finished');
    assert.equal(state.outcome?.kind, 'failed');
  });

  it('shows a stage that the plan did not name', () => {
    assert.deepEqual(rendered(after(begun(5, STAGE_CONVERT))), ['convert   [....................] running']);
  });

  it('prints plain lines at every tenth or every five seconds', () => {
    const at = (percent: number, elapsedMs: number): OperationEvent =>
      progress(2, STAGE_BLOCKJOB, {
        processedBytes: BigInt(percent) * MIB,
        totalBytes: 100n * MIB,
        inputBytes: BigInt(percent) * MIB,
        elapsedMs: BigInt(elapsedMs),
      });
    const lines = plain(
      ...start,
      at(1, 100),
      at(9, 900),
      at(11, 1000),
      at(12, 1100),
      at(13, 6000),
      at(14, 6100),
      at(25, 7000),
    );
    assert.deepEqual(
      lines.map((line) => line.split('  ')[0]),
      [
        'accepted: prepare, blockjob, convert',
        'blockjob: started',
        'blockjob: 11.0%',
        'blockjob: 13.0%',
        'blockjob: 25.0%',
      ],
    );
  });

  it('prints warnings, limits, pauses and ends as plain lines', () => {
    assert.deepEqual(
      plain(
        event(1, {
          $case: 'warning',
          value: { reason: 'NOT_QUIESCED', message: 'no\nagent', target: 'vda' },
        }),
        event(2, { $case: 'bandwidthApplied', value: { limitMibps: 0n } }),
        event(3, { $case: 'paused', value: {} }),
        event(4, { $case: 'resumed', value: {} }),
        finished(5, STAGE_PREPARE, { elapsedMs: 340n }),
        deleted(6),
      ),
      [
        'warning: vda: no\\x0aagent [NOT_QUIESCED]',
        'limit: unlimited',
        'paused',
        'resumed',
        'prepare: done  in 340ms',
      ],
    );
  });
});
