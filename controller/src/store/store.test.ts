import assert from 'node:assert/strict';
import { Secret } from '@holdfast/common/secret.ts';
import { MASTER_KEY, TEST_DEADLINE_MS, refused } from '../testing/lab.ts';
import { describeOnBothStores, makeState, type TestState } from '../testing/stores.ts';
import { migrations } from './migrations.ts';
import { generateMasterKey } from './sealer.ts';
import { openStore, type Store } from './store.ts';

describeOnBothStores('the store', function (kind) {
  this.timeout(TEST_DEADLINE_MS);
  let state: TestState;
  let store: Store;
  beforeEach(async () => {
    state = await makeState(kind);
    store = await openStore(state.place, MASTER_KEY);
  });
  afterEach(async () => {
    await store.close();
    await state.remove();
  });
  const addZone = (name: string) =>
    store.transact((trx) => trx.insertInto('zones').values({ name, create_time: '' }).execute());
  const zones = async (): Promise<string[]> =>
    (await store.db.selectFrom('zones').select('name').orderBy('name').execute()).map((row) => row.name);

  it('refuses a newer schema, and leaves it as it is', async () => {
    await store.transact((trx) => trx.updateTable('schema_version').set({ version: 999 }).execute());
    await store.close();
    assert.match((await refused(openStore(state.place, MASTER_KEY), 'STATE_UNUSABLE')).message, /999/);
    // The lock is free again.
    await refused(openStore(state.place, MASTER_KEY), 'STATE_UNUSABLE');
    assert.ok(migrations.length < 999);
  });

  it('refuses another master key', async () => {
    await store.close();
    await refused(openStore(state.place, new Secret(generateMasterKey())), 'STATE_UNUSABLE');
    await refused(openStore(state.place, new Secret('short')), 'INVALID_REQUEST');
    store = await openStore(state.place, MASTER_KEY);
  });

  it('keeps what was committed, and sorts text by its bytes', async () => {
    for (const name of ['b', 'B', 'a.b', 'a-b', 'aB', 'ab']) await addZone(name);
    await store.close();
    store = await openStore(state.place, MASTER_KEY);
    assert.deepEqual(await zones(), ['B', 'a-b', 'a.b', 'aB', 'ab', 'b']);
  });

  it('undoes only the work that failed, of all that was asked for at once', async () => {
    const answers = await Promise.allSettled([
      addZone('one'),
      store.transact(async (trx) => {
        await trx.insertInto('zones').values({ name: 'undone', create_time: '' }).execute();
        throw new Error('on purpose');
      }),
      addZone('two'),
      addZone('one'),
      addZone('three'),
    ]);
    assert.deepEqual(
      answers.map((answer) => answer.status),
      ['fulfilled', 'rejected', 'fulfilled', 'rejected', 'fulfilled'],
    );
    assert.deepEqual(await zones(), ['one', 'three', 'two']);
  });

  it('lets work see what work before it did, in the same batch too', async () => {
    const counts = await Promise.all(
      Array.from({ length: 50 }, (_, index) =>
        store.transact(async (trx) => {
          await trx
            .insertInto('zones')
            .values({ name: String(index), create_time: '' })
            .execute();
          return (await trx.selectFrom('zones').select('name').execute()).length;
        }),
      ),
    );
    assert.deepEqual(
      counts,
      Array.from({ length: 50 }, (_, index) => index + 1),
    );
  });
});
