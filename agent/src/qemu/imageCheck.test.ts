import assert from 'node:assert/strict';
import { open, readdir, truncate } from 'node:fs/promises';
import { join } from 'node:path';
import type { Secret } from '@holdfast/common/secret.ts';
import { imageOf, KEY, never, OTHER_KEY, rawSource } from '../testing/daemon.ts';
import { temporaryDirectory } from '../testing/directory.ts';
import { checkImage, type CheckResult } from './imageCheck.ts';
import { layoutName, type ImageLayout } from './layout.ts';

const PLAIN: ImageLayout = { compression: '', encrypted: false };
const LUKS: ImageLayout = { compression: '', encrypted: true };
const BOTH: ImageLayout = { compression: 'zstd', encrypted: true };

describe('checking an image', () => {
  let directory: Awaited<ReturnType<typeof temporaryDirectory>>;
  let path: string;
  beforeEach(async () => {
    directory = await temporaryDirectory();
    path = join(directory.path, 'a, b=c "d" \'e\' ö.qcow2');
    await rawSource(join(directory.path, 'source'));
  });
  afterEach(async () => {
    assert.deepEqual(
      (await readdir(directory.path)).filter((name) => name.startsWith('secret')),
      [],
    );
    await directory[Symbol.asyncDispose]();
  });
  const make = (layout: ImageLayout): Promise<void> =>
    imageOf(directory.path, path, layout, join(directory.path, 'source'));
  const check = (layout: ImageLayout, secret?: Secret): Promise<CheckResult> =>
    checkImage(
      { target: 'vda', path, layout: layoutName(layout), secret },
      'CHECK_FAILED',
      directory.path,
      never,
    );

  it('finds corrupted metadata', async () => {
    await make(PLAIN);
    // The header says where the L1 table is (qcow2.txt, byte 40); its first entry is made to point nowhere.
    const file = await open(path, 'r+');
    const { buffer } = await file.read(Buffer.alloc(8), 0, 8, 40);
    await file.write(Buffer.from('8000000000000200', 'hex'), 0, 8, Number(buffer.readBigUInt64BE()));
    await file.close();
    await assert.rejects(check(PLAIN), { reason: 'CHECK_FAILED', metadata: { disk: 'vda' } });
  });

  it('finds an image that is cut off, or no image at all', async () => {
    await make(PLAIN);
    await truncate(path, 1_000_000);
    await assert.rejects(check(PLAIN), { reason: 'CHECK_FAILED' });
    await truncate(path, 0);
    await assert.rejects(check(PLAIN), { reason: 'CHECK_FAILED' });
  });

  it('counts leaked clusters, which are no damage', async () => {
    await make(PLAIN);
    const file = await open(path, 'r+');
    const { buffer: header } = await file.read(Buffer.alloc(104), 0, 104, 0);
    // qcow2.txt: the L2 entry of the first data cluster is emptied, its refcount stays.
    const { buffer: l1 } = await file.read(Buffer.alloc(8), 0, 8, Number(header.readBigUInt64BE(40)));
    const l2 = Number(l1.readBigUInt64BE() & 0x00ff_ffff_ffff_fe00n);
    await file.write(Buffer.alloc(16), 0, 16, l2);
    await file.close();
    assert.deepEqual(await check(PLAIN), { leakedClusters: 2 });
  });

  for (const [name, layout] of [
    ['LUKS', LUKS],
    ['zstd inside LUKS', BOTH],
  ] as const) {
    it(`opens ${name} with its key; one that its key does not open is damaged`, async () => {
      await make(layout);
      assert.deepEqual(await check(layout, KEY), { leakedClusters: 0 });
      await assert.rejects(check(layout, OTHER_KEY), { reason: 'CHECK_FAILED', message: /password/i });
      await truncate(path, 3_000_000);
      await assert.rejects(check(layout, KEY), { reason: 'CHECK_FAILED' });
    });
  }

  it('ends when it is cancelled', async () => {
    await make(PLAIN);
    const cancelled = AbortSignal.abort(new Error('cancelled'));
    await assert.rejects(
      checkImage(
        { target: 'vda', path, layout: 'qcow2', secret: KEY },
        'CHECK_FAILED',
        directory.path,
        cancelled,
      ),
      { message: 'cancelled' },
    );
  });
});
