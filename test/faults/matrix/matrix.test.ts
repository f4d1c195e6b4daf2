/**
 * The fault matrix. By default the few cases that show each fault, stage, operation and transport once; `make faults` has
 * them all. Each is a row of faults.json.
 *
 *     HOLDFAST_FAULTS=all    every case
 *     HOLDFAST_SHARD=1/4     the first of four shares of them
 *     HOLDFAST_RESUME=1      without those that faults.json says were survived
 */
import assert from 'node:assert/strict';
import { startBed, type Bed } from './bed.ts';
import { allCases, caseName, coveringCases, shard } from './cases.ts';
import { perform } from './perform.ts';
import { hungNasHoldsUpNobody } from './hungNas.ts';
import { forgetRows, readRows, writeRow } from './results.ts';

const { HOLDFAST_FAULTS = '', HOLDFAST_SHARD = '1/1', HOLDFAST_RESUME = '' } = process.env;

const [index = 0, of = 0] = HOLDFAST_SHARD.split('/').map(Number);
if (!(index >= 1 && index <= of)) throw new Error(`HOLDFAST_SHARD is ${HOLDFAST_SHARD}, not such as 1/4.`);
const chosen = shard(HOLDFAST_FAULTS === 'all' ? allCases() : coveringCases(), index, of);
const survived =
  HOLDFAST_RESUME === ''
    ? []
    : (await readRows()).filter(({ problems }) => problems.length === 0).map((row) => row.case);
const cases = chosen.filter((each) => !survived.includes(caseName(each)));

describe('the fault matrix', function () {
  this.timeout(300_000);
  let bed: Bed | undefined;
  before(() => forgetRows(cases.map(caseName)));
  after(() => bed?.[Symbol.asyncDispose]());
  afterEach(async function () {
    if (this.currentTest?.state !== 'failed') return;
    console.error((await bed?.holdfast.logs())?.slice(-20_000));
    // What this case broke must not be held against the next one.
    await bed?.[Symbol.asyncDispose]();
    bed = undefined;
  });

  for (const each of cases) {
    it(caseName(each), async () => {
      bed ??= await startBed();
      const row = await perform(bed, each);
      await writeRow(row);
      assert.deepEqual([...row.problems, ...row.leftovers], []);
    });
  }

  it('a NAS that hangs in a pulled backup holds the guest up no longer than twice what a healthy one does', async () => {
    bed ??= await startBed();
    await hungNasHoldsUpNobody(bed);
  });
});
