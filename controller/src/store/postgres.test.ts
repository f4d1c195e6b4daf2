import assert from 'node:assert/strict';
import pg from 'pg';
import { Secret } from '@holdfast/common/secret.ts';
import { eventually, MASTER_KEY, TEST_DEADLINE_MS, refused } from '../testing/lab.ts';
import { makeState, query, type TestState } from '../testing/stores.ts';
import type { Notice } from './notices.ts';
import { openStore } from './store.ts';

describe('the state in PostgreSQL', function () {
  this.timeout(TEST_DEADLINE_MS);
  let state: TestState;
  let url: string;
  beforeEach(async () => {
    state = await makeState('postgres');
    url = state.place.kind === 'postgres' ? state.place.url.reveal() : '';
  });
  afterEach(() => state.remove());

  /** Cuts all connections to the database, as a restart of the server would. */
  const cutOff = () =>
    query(
      url,
      `select pg_terminate_backend(pid) from pg_stat_activity
       where datname = current_database() and pid <> pg_backend_pid()`,
    );

  it('goes on after its connections broke', async () => {
    const store = await openStore(state.place, MASTER_KEY);
    await cutOff();
    const add = (name: string) =>
      store.transact((trx) => trx.insertInto('zones').values({ name, create_time: '' }).execute());
    // The first may still meet the broken connection, and says so.
    await add('z1').catch((error: unknown) => {
      assert.equal((error as { reason?: string }).reason, 'STATE_UNAVAILABLE');
    });
    await add('z2');
    assert.ok((await store.db.selectFrom('zones').select('name').execute()).some((row) => row.name === 'z2'));
    await store.close();
  });

  it('goes on after its connection broke in the middle of a transaction', async () => {
    const store = await openStore(state.place, MASTER_KEY);
    const add = store.transact(async (trx) => {
      await trx.insertInto('zones').values({ name: 'z1', create_time: '' }).execute();
      await cutOff();
      await trx.insertInto('zones').values({ name: 'z2', create_time: '' }).execute();
    });
    await refused(add, 'STATE_UNAVAILABLE');
    assert.deepEqual(await store.db.selectFrom('zones').select('name').execute(), []);
    await store.close();
  });

  it('is shared by any number of controllers that begin at once', async () => {
    const stores = await Promise.all([1, 2, 3, 4].map(() => openStore(state.place, MASTER_KEY)));
    const heard: Notice[] = [];
    const [first, second] = stores;
    assert.ok(first && second);
    second.notices.listen((notice) => heard.push(notice));
    first.notices.listen(({ kind }) => assert.equal(kind, 'missed', 'heard itself'));
    await first.notices.tell({ kind: 'stored', operationId: 'one' }, first.db);
    await first
      .transact(async (trx) => {
        await first.notices.tell({ kind: 'stored', operationId: 'undone' }, trx);
        throw new Error('on purpose');
      })
      .catch(() => undefined);
    await first.notices.tell({ kind: 'stored', operationId: 'two' }, first.db);
    await eventually(() => Promise.resolve(heard.length >= 2));
    assert.deepEqual(
      heard.map((notice) => 'operationId' in notice && notice.operationId),
      ['one', 'two'],
    );
    await cutOff();
    await eventually(() => Promise.resolve(heard.some(({ kind }) => kind === 'missed')));
    await Promise.all(stores.map((store) => store.close()));
  });

  it('has its schema changed only while no other controller works on it', async () => {
    const present = await openStore(state.place, MASTER_KEY);
    await query(url, 'update schema_version set version = version - 1');
    await refused(openStore(state.place, MASTER_KEY), 'IN_USE');
    await query(url, 'update schema_version set version = version + 1');
    await (await openStore(state.place, MASTER_KEY)).close();
    await present.close();
    // As a controller did that knew of no others.
    const alone = new pg.Client(url);
    await alone.connect();
    await alone.query('select pg_advisory_lock(5127001)');
    await refused(openStore(state.place, MASTER_KEY), 'IN_USE');
    await alone.end();
    await eventually(() => openStore(state.place, MASTER_KEY).catch(() => undefined)).then((store) =>
      store.close(),
    );
  });

  it('does work again that another writer came in between', async () => {
    const store = await openStore(state.place, MASTER_KEY);
    await store.transact((trx) => trx.insertInto('zones').values({ name: 'z1', create_time: 'a' }).execute());
    const seen: string[] = [];
    await store.transact(async (trx) => {
      const row = await trx.selectFrom('zones').select('create_time').executeTakeFirstOrThrow();
      seen.push(row.create_time);
      if (seen.length === 1) await query(url, `update zones set create_time = 'b'`);
      await trx
        .updateTable('zones')
        .set({ create_time: `${row.create_time}c` })
        .execute();
    });
    assert.deepEqual(seen, ['a', 'b']);
    const [zone] = await query(url, 'select create_time from zones');
    assert.equal(zone?.['create_time'], 'bc');
    await store.close();
  });

  it('says what is wrong when it cannot be opened', async () => {
    const open = (given: string) => openStore({ kind: 'postgres', url: new Secret(given) }, MASTER_KEY);
    await refused(open('postgresql://postgres@/x?host=/nowhere'), 'STATE_UNAVAILABLE');
    await refused(open(url.replace(/\/holdfast_[0-9a-f]+/, '/nothing')), 'STATE_UNUSABLE');
    const error = await refused(open('postgresql://user:tell-nobody@db.example/holdfast'), 'INVALID_REQUEST');
    assert.match(error.message, /sslmode=verify-full/);
    assert.ok(!error.message.includes('tell-nobody'));
  });

  it('refuses a text that PostgreSQL cannot hold', async () => {
    const store = await openStore(state.place, MASTER_KEY);
    await refused(
      store.db.selectFrom('zones').select('name').where('name', '=', 'a\0b').execute(),
      'INVALID_REQUEST',
    );
    await store.close();
  });
});
