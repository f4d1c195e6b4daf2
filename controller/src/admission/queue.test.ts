import assert from 'node:assert/strict';
import fc from 'fast-check';
import { PATIENCE_MS, takeTurns, type Closed, type Limits, type Running, type Waiting } from './queue.ts';

const NONE: Limits = { perHost: 0, perRepository: 0, perZone: 0 };
const OPEN: ReadonlyMap<string, Closed> = new Map();

const operation = (id: string, more: Partial<Waiting> = {}): Waiting => ({
  id,
  createTimeMs: Number(id.replace(/\D/g, '')),
  domain: id,
  repository: 'r1',
  hosts: ['h1'],
  background: false,
  ...more,
});
const turn = (given: {
  waiting: readonly Waiting[];
  running?: readonly Running[];
  limits?: Partial<Limits>;
  closed?: ReadonlyMap<string, Closed>;
  nowMs?: number;
}) =>
  takeTurns({
    ...{ zone: 'z1', running: [], closed: OPEN, nowMs: 100 },
    ...given,
    limits: { ...NONE, ...given.limits },
  });
const ids = (list: readonly { readonly id: string }[]): string[] => list.map(({ id }) => id);

const hostNames = ['h1', 'h2', 'h3', 'h4'];
const work = fc.record({
  background: fc.boolean(),
  domain: fc.constantFrom('a', 'b', 'c', 'd', 'e'),
  repository: fc.constantFrom('r1', 'r2', 'r3'),
});
const situation = fc.record({
  running: fc.array(
    fc.tuple(work, fc.constantFrom(...hostNames)).map(([each, host]): Running => ({ ...each, host })),
    { maxLength: 12 },
  ),
  waiting: fc
    .array(
      fc.tuple(work, fc.subarray(hostNames, { minLength: 1 }), fc.integer({ min: 0, max: 2 * PATIENCE_MS })),
      { maxLength: 20 },
    )
    .map((list): Waiting[] =>
      list.map(([each, hosts, createTimeMs], index) => ({ ...each, hosts, createTimeMs, id: `o${index}` })),
    ),
  limits: fc.record({
    perHost: fc.integer({ min: 0, max: 4 }),
    perRepository: fc.integer({ min: 0, max: 4 }),
    perZone: fc.integer({ min: 0, max: 10 }),
  }),
  closed: fc
    .array(fc.tuple(fc.constantFrom(...hostNames), fc.constantFrom<Closed[]>('down', 'drained')), {
      maxLength: 2,
    })
    .map((list) => new Map(list)),
  nowMs: fc.constant(2 * PATIENCE_MS),
});

describe('taking turns', () => {
  it('lets all begin at once without limits', () => {
    const waiting = ['o1', 'o2', 'o3'].map((id) => operation(id));
    assert.deepEqual(ids(turn({ waiting }).admitted), ['o1', 'o2', 'o3']);
  });

  it('never lets more run than may, and forgets nobody', () => {
    fc.assert(
      fc.property(situation, (given) => {
        const { admitted, waiting } = takeTurns({ zone: 'z1', ...given });
        assert.deepEqual([...ids(admitted), ...ids(waiting)].sort(), ids(given.waiting).sort());
        const { perHost, perRepository, perZone } = given.limits;
        const begun = admitted.map(({ id, host }) => {
          const found = given.waiting.find((each) => each.id === id);
          assert.ok(found !== undefined && found.hosts.includes(host));
          assert.ok(!given.closed.has(host));
          return { ...found, host };
        });
        const all: Running[] = [...given.running, ...begun];
        const check = (limit: number, of: (each: Running) => string): void => {
          if (limit === 0) return;
          for (const each of begun) {
            // What runs in the background counts for its like alone.
            const counted = all.filter((other) => each.background || !other.background);
            assert.ok(counted.filter((other) => of(other) === of(each)).length <= limit);
          }
        };
        check(perHost, ({ host }) => host);
        check(perRepository, ({ repository }) => repository);
        check(perZone, () => '');
      }),
    );
  });

  it('lets the first of the queue begin whenever it can', () => {
    fc.assert(
      fc.property(situation, (given) => {
        // With nothing running and a host that takes work, somebody begins.
        const { admitted, waiting } = takeTurns({ zone: 'z1', ...given, running: [] });
        const isPossible = given.waiting.some(({ hosts }) => hosts.some((host) => !given.closed.has(host)));
        assert.equal(admitted.length > 0, isPossible);
        for (const { wait } of waiting) assert.ok(wait.subject !== '');
      }),
    );
  });

  it('goes round between domains', () => {
    const busy = ['o1', 'o2', 'o3', 'o4'].map((id) => operation(id, { domain: 'busy' }));
    const waiting = [...busy, operation('o5'), operation('o6')];
    const { admitted, waiting: left } = turn({ waiting, limits: { perHost: 3 } });
    assert.deepEqual(ids(admitted), ['o1', 'o5', 'o6']);
    assert.deepEqual(ids(left), ['o2', 'o3', 'o4']);
    const running = [{ ...operation('x'), domain: 'busy', host: 'h1' }];
    assert.deepEqual(ids(turn({ waiting, running, limits: { perHost: 2 } }).admitted), ['o5']);
  });

  it('says what each waits for', () => {
    const running = [{ ...operation('x'), host: 'h1' }];
    const waitFor = (limits: Partial<Limits>, more: Partial<Waiting> = {}, closed = OPEN) =>
      turn({ waiting: [operation('o1', more)], running, limits, closed }).waiting[0]?.wait;
    assert.deepEqual(waitFor({ perHost: 1 }), { for: 'host', subject: 'h1' });
    assert.deepEqual(waitFor({ perRepository: 1 }), { for: 'repository', subject: 'r1' });
    assert.deepEqual(waitFor({ perZone: 1 }), { for: 'zone', subject: 'z1' });
    assert.deepEqual(waitFor({}, {}, new Map([['h1', 'down']])), { for: 'down', subject: 'h1' });
    assert.deepEqual(waitFor({}, {}, new Map([['h1', 'drained']])), { for: 'drained', subject: 'h1' });
    assert.equal(waitFor({ perHost: 1 }, { hosts: ['h1', 'h2'] }), undefined);
  });

  it('holds up nobody else for a host that is down', () => {
    const waiting = [operation('o1'), operation('o2', { hosts: ['h2'] })];
    const { admitted } = turn({ waiting, limits: { perZone: 1 }, closed: new Map([['h1', 'down']]) });
    assert.deepEqual(admitted, [{ id: 'o2', host: 'h2' }]);
  });

  it('lets others pass one that cannot begin, until it has waited for long', () => {
    // o1 needs r1, which is full, and h1.
    const running = [{ ...operation('x'), host: 'h2' }];
    const waiting = [operation('o1'), operation('o2', { repository: 'r2' })];
    const limits = { perHost: 1, perRepository: 1 };
    assert.deepEqual(ids(turn({ waiting, running, limits }).admitted), ['o2']);
    const later = turn({ waiting, running, limits, nowMs: 2 * PATIENCE_MS });
    assert.deepEqual(ids(later.admitted), []);
    assert.deepEqual(later.waiting[1]?.wait, { for: 'turn', subject: 'h1' });
  });

  it('lets what is in the background begin last, in a free slot, and take none away', () => {
    const scrub = operation('o1', { background: true });
    const waiting = [scrub, operation('o2'), operation('o3')];
    const limits = { perRepository: 2 };
    const first = turn({ waiting, limits });
    assert.deepEqual(ids(first.admitted), ['o2', 'o3']);
    assert.deepEqual(first.waiting, [{ id: 'o1', wait: { for: 'repository', subject: 'r1' } }]);
    // However long it has waited.
    const nowMs = 2 * PATIENCE_MS;
    const running = [{ ...operation('o2'), host: 'h1' }];
    assert.deepEqual(ids(turn({ waiting: [scrub, operation('o3')], running, limits, nowMs }).admitted), [
      'o3',
    ]);
    assert.deepEqual(ids(turn({ waiting: [scrub], running, limits }).admitted), ['o1']);
    // One that runs keeps its like waiting, and nobody else.
    const scrubbing = [{ ...scrub, host: 'h1' }];
    const next = [operation('o4', { background: true }), operation('o5')];
    const last = turn({ waiting: next, running: scrubbing, limits: { perRepository: 1 } });
    assert.deepEqual([ids(last.admitted), ids(last.waiting)], [['o5'], ['o4']]);
  });
});
