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
          return { domain: found.domain, repository: found.repository, host };
        });
        const all: Running[] = [...given.running, ...begun];
        const check = (limit: number, of: (each: Running) => string): void => {
          if (limit === 0) return;
          for (const each of begun) assert.ok(all.filter((other) => of(other) === of(each)).length <= limit);
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
    const running = [{ domain: 'busy', host: 'h1', repository: 'r1' }];
    assert.deepEqual(ids(turn({ waiting, running, limits: { perHost: 2 } }).admitted), ['o5']);
  });

  it('says what each waits for', () => {
    const running = [{ domain: 'x', host: 'h1', repository: 'r1' }];
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
    const running = [{ domain: 'x', host: 'h2', repository: 'r1' }];
    const waiting = [operation('o1'), operation('o2', { repository: 'r2' })];
    const limits = { perHost: 1, perRepository: 1 };
    assert.deepEqual(ids(turn({ waiting, running, limits }).admitted), ['o2']);
    const later = turn({ waiting, running, limits, nowMs: 2 * PATIENCE_MS });
    assert.deepEqual(ids(later.admitted), []);
    assert.deepEqual(later.waiting[1]?.wait, { for: 'turn', subject: 'h1' });
  });
});
