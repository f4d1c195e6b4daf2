import assert from 'node:assert/strict';
import { MIB } from '@holdfast/common/bytes.ts';
import { Stage } from '@holdfast/proto/holdfast/v1/event.ts';
import { createDemand, type Demand } from './demand.ts';

const { STAGE_BLOCKJOB, STAGE_CHECK } = Stage;

describe('what a backup wants of a budget', () => {
  let demand: Demand;
  let elapsedMs: number;
  let bytes: number;
  beforeEach(() => {
    demand = createDemand(STAGE_BLOCKJOB);
    elapsedMs = 0;
    bytes = 0;
  });
  const begin = (): void => {
    demand.note({ $case: 'stageStarted', value: { stage: STAGE_BLOCKJOB } });
  };
  /** Reads at a rate for some seconds under a share, both MiB/s. */
  const read = (rate: number, share: number, seconds: number): number => {
    demand.wanted(share * MIB);
    for (let step = 0; step < seconds * 4; step += 1) {
      elapsedMs += 250;
      bytes += (rate * MIB) / 4;
      const figures = {
        ...{ processedBytes: 0n, totalBytes: 0n, outputBytes: 0n },
        ...{ inputBytes: BigInt(Math.round(bytes)), elapsedMs: BigInt(elapsedMs) },
      };
      demand.note({ $case: 'stageProgress', value: { stage: STAGE_BLOCKJOB, figures, disks: [] } });
    }
    return demand.wanted(share * MIB) / MIB;
  };

  it('is nothing before the data is read and after, and while it is paused', () => {
    assert.equal(demand.wanted(MIB), 0);
    begin();
    assert.equal(demand.wanted(MIB), Infinity);
    demand.note({ $case: 'paused', value: {} });
    assert.equal(demand.wanted(MIB), 0);
    demand.note({ $case: 'resumed', value: {} });
    assert.equal(demand.wanted(MIB), Infinity);
    demand.note({
      $case: 'stageFinished',
      value: { stage: STAGE_BLOCKJOB, figures: undefined, disks: [] },
    });
    demand.note({ $case: 'stageStarted', value: { stage: STAGE_CHECK } });
    assert.equal(demand.wanted(MIB), 0);
  });

  it('is any amount while it uses what it has', () => {
    begin();
    assert.equal(read(10, 10, 5), Infinity);
    assert.equal(read(4.8, 5, 5), Infinity);
  });

  it('is a little more than what it uses when that is less, and grows as soon as it can use more', () => {
    begin();
    assert.equal(read(10, 10, 1), Infinity, 'too early to say');
    const wanted = read(2, 10, 5);
    assert.ok(wanted > 2.5 && wanted < 2.7, String(wanted));
    // It has what it wanted, and uses it as before: nothing changes.
    assert.equal(read(2, wanted, 5), wanted);
    assert.equal(read(wanted, wanted, 3), Infinity);
  });

  it('is found out while its share changes all the time', () => {
    begin();
    for (let second = 0; second < 6; second += 1) read(2, second % 2 === 0 ? 8 : 12, 1);
    assert.ok(demand.wanted(MIB) / MIB < 3);
  });
});
