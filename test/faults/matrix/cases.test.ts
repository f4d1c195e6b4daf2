import assert from 'node:assert/strict';
import {
  allCases,
  aspectsOf,
  caseName,
  coveringCases,
  faultName,
  KILLS,
  MOMENTS,
  NAS_FAULTS,
  SCRATCH_FAULTS,
  shard,
  type OperationName,
} from './cases.ts';

const operations = Object.keys(MOMENTS) as OperationName[];

describe('the cases of the fault matrix', () => {
  const all = allCases();

  it('have every fault of the NAS at every stage of every operation, by every transport', () => {
    for (const operation of operations)
      for (const { stage } of MOMENTS[operation])
        for (const transport of operation === 'backup' ? ['pull', 'push', 'stopped'] : ['pull'])
          for (const what of NAS_FAULTS)
            assert.ok(
              all.some(
                (each) =>
                  each.operation === operation &&
                  each.stage === stage &&
                  each.transport === transport &&
                  each.fault.kind === 'NAS' &&
                  each.fault.what === what,
              ),
              `${operation} ${stage} ${transport} ${what}`,
            );
  });

  it('kill every process at every stage in which it runs', () => {
    for (const what of KILLS) {
      for (const operation of operations) {
        const stages = MOMENTS[operation].filter(({ without }) => !without.includes(what));
        const found = new Set(
          all
            .filter((each) => each.operation === operation && each.fault.what === what)
            .map(({ stage }) => stage),
        );
        assert.deepEqual(
          [...found],
          stages.map(({ stage }) => stage),
          `${what} in ${operation}`,
        );
      }
    }
    assert.ok(!all.some(({ transport, fault }) => transport === 'stopped' && fault.what === 'guest QEMU'));
  });

  it('have scratch faults where there is scratch', () => {
    const scratch = all.filter(({ fault }) => fault.kind === 'scratch');
    assert.equal(scratch.length, MOMENTS.backup.length * SCRATCH_FAULTS.length);
    assert.ok(scratch.every(({ operation, transport }) => operation === 'backup' && transport === 'pull'));
  });

  it('have names of their own', () => {
    assert.equal(new Set(all.map(caseName)).size, all.length);
  });

  it('have a few among them that show every fault, stage, operation and transport', () => {
    const few = coveringCases();
    assert.ok(few.length < all.length / 6, `${few.length} of ${all.length}`);
    const shown = new Set(few.flatMap(aspectsOf));
    assert.deepEqual(
      [...new Set(all.flatMap(aspectsOf))].filter((aspect) => !shown.has(aspect)),
      [],
    );
    assert.deepEqual(
      new Set(few.map(({ fault }) => faultName(fault))),
      new Set(all.map(({ fault }) => faultName(fault))),
    );
  });

  it('can be shared out, and no share has another one’s', () => {
    const shares = [1, 2, 3, 4].flatMap((index) => shard(all, index, 4));
    assert.equal(shares.length, all.length);
    assert.deepEqual(new Set(shares), new Set(all));
  });
});
