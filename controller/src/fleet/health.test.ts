import assert from 'node:assert/strict';
import { HoldfastError } from '@holdfast/common/errors.ts';
import { RepositoryState } from '@holdfast/proto/holdfast/v1/repository.ts';
import { createHealth, type Health } from './health.ts';

const STALLED = RepositoryState.REPOSITORY_STATE_STALLED;
const ANSWERING = RepositoryState.REPOSITORY_STATE_ANSWERING;
const stalled = new HoldfastError('REPOSITORY_STALLED', 'It does not answer.');

describe('the health of repositories', () => {
  let stop: AbortController;
  let clockMs: number;
  let asked: string[];
  let answer: (health: Health) => void;
  let health: Health;
  beforeEach(() => {
    stop = new AbortController();
    clockMs = 0;
    asked = [];
    answer = (known) => {
      known.note('nas', 'h1', stalled);
    };
    health = createHealth({
      ask: (repository, host) => {
        asked.push(`${repository} ${host}`);
        answer(health);
        return Promise.resolve();
      },
      now: () => new Date(++clockMs),
      stopping: stop.signal,
      everyMs: 1,
    });
  });
  afterEach(() => {
    stop.abort();
  });
  const states = (): (readonly [string, RepositoryState])[] =>
    health.of('nas').map(({ host, state }) => [host, state] as const);
  const turn = (): Promise<unknown> => new Promise(setImmediate);

  it('is that of each host that has used it, and says since when', () => {
    assert.deepEqual(health.of('nas'), []);
    health.note('nas', 'h2', undefined);
    health.note('nas', 'h1', stalled, new Date(7_000));
    health.note('nas', 'h1', stalled);
    health.note('nas', 'h3', new HoldfastError('MOUNT_FAILED', 'No such export.'));
    assert.deepEqual(states(), [
      ['h1', STALLED],
      ['h2', ANSWERING],
      ['h3', RepositoryState.REPOSITORY_STATE_UNUSABLE],
    ]);
    const [first] = health.of('nas');
    assert.equal(first?.since?.getTime(), 7_000);
    assert.equal(first.message, 'It does not answer.');
    assert.deepEqual(health.of('other'), []);
  });

  it('is not told by an agent that is away', () => {
    health.note('nas', 'h1', undefined);
    health.note('nas', 'h1', new HoldfastError('AGENT_UNREACHABLE', 'away'));
    assert.deepEqual(states(), [['h1', ANSWERING]]);
  });

  it('is asked for while it is stalled, until it answers, and no longer', async () => {
    health.note('nas', 'h1', stalled);
    health.note('nas', 'h1', stalled);
    while (asked.length < 3) await turn();
    answer = (known) => {
      known.note('nas', 'h1', undefined);
    };
    while (states()[0]?.[1] === STALLED) await turn();
    const before = asked.length;
    for (let count = 0; count < 50; count++) await turn();
    assert.equal(asked.length, before);
    assert.deepEqual([...new Set(asked)], ['nas h1']);
  });

  it('follows what jobs tell', () => {
    const time = new Date(1);
    const since = new Date(5_000);
    const tell = (event: Parameters<Health['noteEvent']>[2]['event']): void => {
      health.noteEvent('nas', 'h1', { sequence: 1n, time, event });
    };
    tell({ $case: 'repositoryStalled', value: { repository: 'nas', since, giveUpTime: since } });
    assert.equal(health.of('nas')[0]?.since?.getTime(), 5_000);
    tell({ $case: 'repositoryAnswered', value: { repository: 'nas', stalledMs: 1n } });
    assert.deepEqual(states(), [['h1', ANSWERING]]);
    tell({ $case: 'paused', value: {} });
    assert.deepEqual(states(), [['h1', ANSWERING]]);
  });
});
