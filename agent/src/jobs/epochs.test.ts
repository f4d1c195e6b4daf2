import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import { temporaryDirectory } from '../testing/directory.ts';
import { epochs } from './epochs.ts';

describe('fencing epochs', () => {
  let directory: Awaited<ReturnType<typeof temporaryDirectory>>;
  beforeEach(async () => {
    directory = await temporaryDirectory();
  });
  afterEach(() => directory[Symbol.asyncDispose]());
  const stale = { reason: 'STALE_EPOCH' };

  it('let the newest controller command, and no older one', async () => {
    const kept = epochs(directory.path);
    const job = randomUUID();
    await kept.accept(job, 7n);
    await kept.accept(job, 8n);
    await kept.require(job, 8n);
    await assert.rejects(kept.accept(job, 7n), stale);
    await assert.rejects(kept.require(job, 7n), stale);
    await kept.require(randomUUID(), 0n);
  });

  it('are known to the next agent', async () => {
    const job = randomUUID();
    await epochs(directory.path).accept(job, 9_007_199_254_740_993n);
    const next = epochs(directory.path);
    await assert.rejects(next.require(job, 9_007_199_254_740_992n), stale);
    await assert.rejects(next.accept(job, 9_007_199_254_740_992n), stale);
    await next.accept(job, 9_007_199_254_740_993n);
    assert.equal((await stat(join(directory.path, job, 'epoch'))).mode & 0o777, 0o600);
  });

  it('are the highest of many that come at once, also in the file', async () => {
    const job = randomUUID();
    const all = [3n, 9n, 1n, 9n, 2n, 10n, 5n];
    const kept = epochs(directory.path);
    await Promise.allSettled(all.map((epoch) => kept.accept(job, epoch)));
    await assert.rejects(epochs(directory.path).require(job, 9n), stale);
    await epochs(directory.path).require(job, 10n);
  });

  it('take no id that leads elsewhere', async () => {
    await assert.rejects(epochs(directory.path).accept('../elsewhere', 1n), { reason: 'INVALID_REQUEST' });
  });
});
