import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { StatementSync } from 'node:sqlite';
import { mock } from 'node:test';
import { sql } from 'kysely';
import { MASTER_KEY, TEST_DEADLINE_MS, refused } from '../testing/lab.ts';
import { makeState, type TestState } from '../testing/stores.ts';
import { copySqlite } from './copy.ts';
import { openStore, type Store } from './store.ts';

/** What SQLite answers for `synchronous = full`. */
const FULL = 2;

describe('the state directory', function () {
  this.timeout(TEST_DEADLINE_MS);
  let state: TestState;
  let directory: string;
  beforeEach(async () => {
    state = await makeState('sqlite');
    directory = state.place.kind === 'sqlite' ? state.place.directory : '';
  });
  afterEach(() => state.remove());
  const open = (): Promise<Store> => openStore(state.place, MASTER_KEY);
  const addZones = (store: Store, count: number): Promise<unknown> =>
    Promise.all(
      Array.from({ length: count }, (_, index) =>
        store.transact((trx) =>
          trx
            .insertInto('zones')
            .values({ name: `z${index}`, create_time: '' })
            .execute(),
        ),
      ),
    );

  it('is private', async () => {
    const store = await open();
    assert.equal(statSync(directory).mode & 0o777, 0o700);
    for (const file of ['controller.sqlite', 'controller.sqlite-wal', 'controller.lock']) {
      assert.equal(statSync(join(directory, file)).mode & 0o777, 0o600, file);
    }
    await store.close();
  });

  it('opens after a controller that was killed', async () => {
    await (await open()).close();
    const holder = spawn(process.execPath, [
      '--input-type=module',
      '--eval',
      `import { lockState } from ${JSON.stringify(new URL('./lock.ts', import.meta.url).href)};
       lockState(${JSON.stringify(join(directory, 'controller.lock'))});
       process.stdout.write('locked');
       setInterval(() => undefined, 1000);`,
    ]);
    await once(holder.stdout, 'data');
    await refused(open(), 'IN_USE');
    holder.kill('SIGKILL');
    await once(holder, 'exit');
    await (await open()).close();
  });

  it('is durable with every commit, and commits together what comes together', async () => {
    const store = await open();
    const run = mock.method(StatementSync.prototype, 'run');
    await addZones(store, 1_000);
    run.mock.restore();
    const commits = run.mock.calls.filter(
      (call) => (call.this as StatementSync).sourceSQL === 'commit',
    ).length;
    assert.ok(commits > 0 && commits <= 10, `${commits} commits`);
    const journal = await sql<{ journal_mode: string }>`pragma journal_mode`.execute(store.db);
    assert.equal(journal.rows[0]?.journal_mode, 'wal');
    const synchronous = await sql<{ synchronous: number }>`pragma synchronous`.execute(store.db);
    assert.equal(synchronous.rows[0]?.synchronous, FULL);
    await store.close();
  });

  it('is refused when it is damaged, or no database at all', async () => {
    const store = await open();
    await addZones(store, 500);
    await store.close();
    const path = join(directory, 'controller.sqlite');
    const bytes = readFileSync(path);
    const at = bytes.indexOf('z321');
    assert.ok(at > 0);
    // The page of those names, from its header on.
    bytes.fill(0xff, at - (at % 4_096), at);
    writeFileSync(path, bytes);
    assert.match((await refused(open(), 'STATE_UNUSABLE')).message, /damaged.*docs\/state\.md/);
    writeFileSync(path, 'no database, whatever its name says');
    await refused(open(), 'STATE_UNUSABLE');
  });

  it('is copied while it is written, and the copy opens', async () => {
    const store = await open();
    await addZones(store, 100);
    const target = join(directory, 'copy');
    const copier = spawn(process.execPath, [
      '--input-type=module',
      '--eval',
      `import { copySqlite } from ${JSON.stringify(new URL('./copy.ts', import.meta.url).href)};
       copySqlite(${JSON.stringify(directory)}, ${JSON.stringify(target)});`,
    ]);
    let written = 0;
    const ended = once(copier, 'exit');
    while (copier.exitCode === null) {
      const name = `later${written++}`;
      await store.transact((trx) => trx.insertInto('zones').values({ name, create_time: '' }).execute());
    }
    assert.deepEqual(await ended, [0, null]);
    await refused(
      Promise.resolve().then(() => {
        copySqlite(directory, target);
      }),
      'TARGET_EXISTS',
    );
    assert.equal(statSync(target).mode & 0o777, 0o600);
    assert.ok(!existsSync(`${target}.partial`));
    await store.close();

    for (const end of ['', '-wal', '-shm'])
      rmSync(join(directory, `controller.sqlite${end}`), { force: true });
    writeFileSync(join(directory, 'controller.sqlite'), readFileSync(target));
    const restored = await open();
    const copied = (await restored.db.selectFrom('zones').select('name').execute()).length;
    assert.ok(copied > 100 && copied < 100 + written, `${copied} of ${written}`);
    await restored.close();
  });

  it('is not copied from where there is none, nor to where nothing can be', async () => {
    const copy = (from: string, to: string): Promise<void> =>
      Promise.resolve().then(() => {
        copySqlite(from, to);
      });
    await refused(copy(directory, join(directory, 'copy')), 'INVALID_REQUEST');
    await (await open()).close();
    await refused(copy(directory, join(directory, 'none', 'copy')), 'DIRECTORY_UNUSABLE');
  });
});
