import assert from 'node:assert/strict';
import { DatabaseSync } from 'node:sqlite';
import { mock } from 'node:test';
import { ListOperationsRequest, OperationState } from '@holdfast/proto/holdfast/v1/operation.ts';
import { createJournal } from '../operations/journal.ts';
import { createLive } from '../operations/live.ts';
import { openStore, type Store } from '../store/store.ts';
import { MASTER_KEY } from '../testing/lab.ts';
import { makeState, type TestState } from '../testing/stores.ts';
import { oldestDue } from '../scrub/due.ts';
import { createCatalog } from './backups.ts';

const UUID = '3ca7c43a-0000-4000-8000-000000000001';
const PAGE_TOKEN = Buffer.from(`2026-01-31T12:00:00.000Z ${UUID}`).toString('base64url');

/** Every way to put some of the given values into a filter, all together and none included. */
function choices<Filter>(filter: Filter): Partial<Filter>[] {
  return Object.entries(filter as object).reduce<Partial<Filter>[]>(
    (sets, [key, value]) => [...sets, ...sets.map((set) => ({ ...set, [key]: value as unknown }))],
    [{}],
  );
}

describe('a page of a long list', () => {
  let state: TestState;
  let store: Store;
  beforeEach(async () => {
    state = await makeState('sqlite');
    store = await openStore(state.place, MASTER_KEY);
  });
  afterEach(async () => {
    mock.restoreAll();
    await store.close();
    await state.remove();
  });

  /** How SQLite goes about what `ask` asks it for the first time. */
  const plansOf = async (ask: () => Promise<unknown>): Promise<readonly string[]> => {
    const prepare = mock.method(DatabaseSync.prototype, 'prepare');
    await ask();
    const asked = prepare.mock.calls.map(({ arguments: [text] }) => text);
    const database = prepare.mock.calls[0]?.this as DatabaseSync | undefined;
    mock.restoreAll();
    assert.ok(database, 'nothing was asked that was not asked before');
    return asked
      .filter((text) => text.startsWith('select'))
      .flatMap((text) => database.prepare(`explain query plan ${text}`).all())
      .map(({ detail }) => String(detail));
  };
  const requireIndex = (plans: readonly string[], what: unknown): void => {
    assert.notEqual(plans.length, 0);
    for (const plan of plans) {
      assert.match(plan, / USING (COVERING )?INDEX /, JSON.stringify(what));
    }
  };

  it('of backups is read from an index in its order, whatever it is filtered by', async () => {
    const catalog = createCatalog({ store });
    for (const filter of choices({ zone: 'z', domain: 'web', damaged: true, pageToken: PAGE_TOKEN })) {
      const all = { zone: '', domain: '', damaged: false, pageToken: '', pageSize: 0, ...filter };
      const plans = await plansOf(() => catalog.list(all));
      requireIndex(plans, filter);
      if (filter.damaged === true && filter.domain === undefined)
        assert.match(plans.join(), /backups_damaged/);
    }
    requireIndex(
      await plansOf(() =>
        catalog.list({ zone: '', domain: UUID, damaged: false, pageToken: '', pageSize: 0 }),
      ),
      UUID,
    );
  });

  it('of operations is, too', async () => {
    const leadership = { name: 'controller' };
    const time = new Date();
    const now = (): Date => time;
    const onProgress = (): void => undefined;
    const journal = createJournal({ store, live: createLive(), leadership, onProgress, now });
    const { OPERATION_STATE_FAILED: failed, OPERATION_STATE_RUNNING: running } = OperationState;
    for (const filter of choices<Partial<ListOperationsRequest>>({
      ...{ zone: 'z', host: 'h', domain: 'web', activeOnly: true, pageToken: PAGE_TOKEN },
      ...{ states: [failed, running], createTimeFrom: time, createTimeBefore: time },
    })) {
      requireIndex(await plansOf(() => journal.list(ListOperationsRequest.fromPartial(filter))), filter);
    }
  });

  it('is not read to find the backup whose proof is the oldest', async () => {
    for (const level of ['metadata', 'stored', 'content'] as const) {
      const now = new Date();
      const plans = await plansOf(() =>
        oldestDue(store.db, { repository: 'r', level, unprovedBefore: now, now }),
      );
      requireIndex(
        plans.filter((plan) => !plan.startsWith('CORRELATED')),
        level,
      );
      assert.match(plans.join(), new RegExp(`backups_by_${level}_unproved_since`));
    }
  });
});
