import assert from 'node:assert/strict';
import { decide, type Decision } from './decide.ts';

const steps = (seed: number): Decision[] => Array.from({ length: 400 }, (_, step) => decide(seed, step));

describe('the decisions of a soak', () => {
  it('are the same for the same seed, and others for another', () => {
    assert.deepEqual(steps(7), steps(7));
    assert.deepEqual(decide(7, 300), steps(7)[300]);
    assert.notDeepEqual(steps(7), steps(8));
  });

  it('meet every kind of work, of interference and of victim', () => {
    const all = steps(1);
    const interferences = all.map(({ interference }) =>
      interference.kind === 'kill' ? interference.victim : interference.kind,
    );
    assert.equal(new Set(all.map(({ work }) => work)).size, 4);
    assert.equal(new Set(interferences).size, 12);
    assert.equal(new Set(all.map(({ afterEvents }) => afterEvents)).size, 8);
  });
});
