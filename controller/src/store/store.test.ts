import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { Secret } from '@holdfast/common/secret.ts';
import { TEST_DEADLINE_MS, refused } from '../testing/lab.ts';
import { createSealer, generateMasterKey } from './sealer.ts';
import { openStore } from './store.ts';

const KEY = new Secret('5a'.repeat(32));

describe('the state directory', function () {
  this.timeout(TEST_DEADLINE_MS);
  let directory: string;
  beforeEach(() => {
    directory = join(mkdtempSync(join(tmpdir(), 'holdfast-store-')), 'state');
  });
  afterEach(() => {
    rmSync(join(directory, '..'), { recursive: true, force: true });
  });

  it('is private', async () => {
    const store = await openStore(directory, KEY);
    assert.equal(statSync(directory).mode & 0o777, 0o700);
    for (const file of ['controller.sqlite', 'controller.sqlite-wal', 'controller.lock']) {
      assert.equal(statSync(join(directory, file)).mode & 0o777, 0o600, file);
    }
    await store.close();
  });

  it('counts its openings', async () => {
    for (const epoch of [1n, 2n, 3n]) {
      const store = await openStore(directory, KEY);
      assert.equal(store.fencingEpoch, epoch);
      await store.close();
    }
  });

  it('refuses a second controller, and not one after a killed one', async () => {
    const store = await openStore(directory, KEY);
    await refused(openStore(directory, KEY), 'IN_USE');
    await store.close();
    const holder = spawn(process.execPath, [
      '--input-type=module',
      '--eval',
      `import { lockState } from ${JSON.stringify(new URL('./lock.ts', import.meta.url).href)};
       lockState(${JSON.stringify(join(directory, 'controller.lock'))});
       process.stdout.write('locked');
       setInterval(() => undefined, 1000);`,
    ]);
    await once(holder.stdout, 'data');
    await refused(openStore(directory, KEY), 'IN_USE');
    holder.kill('SIGKILL');
    await once(holder, 'exit');
    await (await openStore(directory, KEY)).close();
  });

  it('refuses a newer schema, and leaves it as it is', async () => {
    await (await openStore(directory, KEY)).close();
    const database = new DatabaseSync(join(directory, 'controller.sqlite'));
    database.exec('update schema_version set version = 999');
    database.close();
    const error = await refused(openStore(directory, KEY), 'STATE_UNUSABLE');
    assert.match(error.message, /999/);
    // The lock is free again.
    await refused(openStore(directory, KEY), 'STATE_UNUSABLE');
  });

  it('refuses another master key', async () => {
    await (await openStore(directory, KEY)).close();
    await refused(openStore(directory, new Secret(generateMasterKey())), 'STATE_UNUSABLE');
    await refused(openStore(directory, new Secret('short')), 'INVALID_REQUEST');
  });

  it('opens a sealed value under its own name only', () => {
    const sealer = createSealer(KEY);
    const sealed = sealer.seal('secret', 'settings.value:z1:key');
    assert.equal(sealer.open(sealed, 'settings.value:z1:key').toString(), 'secret');
    assert.throws(() => sealer.open(sealed, 'settings.value:z2:key'), { reason: 'STATE_UNUSABLE' });
    assert.notDeepEqual(sealer.seal('secret', 'x'), sealer.seal('secret', 'x'));
  });
});
