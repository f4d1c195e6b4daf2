import assert from 'node:assert/strict';
import { join } from 'node:path';
import { MIB } from '@holdfast/common/bytes.ts';
import { temporaryDirectory } from '../testing/directory.ts';
import { output, smallFileSystem } from '../testing/mount.ts';
import { guardScratch, requireScratchSpace, type ScratchSpace } from './scratch.ts';

/** A file system of 10 GiB whose free space goes through these, in MiB, and stays at the last. */
function shrinking(...freeMib: readonly number[]): () => Promise<ScratchSpace> {
  let look = 0;
  return () => {
    const free = freeMib[Math.min(look++, freeMib.length - 1)] ?? 0;
    return Promise.resolve({ sizeBytes: 10_240 * MIB, freeBytes: free * MIB });
  };
}

/** What was free, in MiB, when a backup was given up. */
async function givenUpAt(...freeMib: readonly number[]): Promise<number> {
  const space = shrinking(...freeMib);
  let seen = 0;
  const given = Promise.withResolvers<number>();
  const guard = guardScratch(
    '/scratch',
    () => {
      given.resolve(seen / MIB);
      return Promise.resolve();
    },
    async () => {
      const found = await space();
      seen = found.freeBytes;
      return found;
    },
  );
  try {
    const free = await given.promise;
    assert.equal(guard.failure?.reason, 'SCRATCH_FULL');
    return free;
  } finally {
    guard.close();
  }
}

describe('scratch space', () => {
  it('that has room is enough to begin with', async () => {
    await requireScratchSpace('/dev/shm');
  });

  it('is given up at its reserve when it shrinks slowly', async () => {
    // A tenth of a MiB from look to look is at most a MiB a second, however late a look is.
    const slowly = [257, 256.9, 256.8, 256.7, 256.6, 256.5, 256.4, 256.3, 256.2, 256.1, 256];
    assert.equal(await givenUpAt(...slowly), 256);
  });

  it('is given up long before that when the guest fills it fast', async () => {
    assert.equal(await givenUpAt(9_000, 4_000, 3_000, 200), 4_000);
  });

  it('that cannot be written to is given up at once, and none is begun there', async () => {
    await using directory = await temporaryDirectory();
    const given = Promise.withResolvers<undefined>();
    await using readOnly = await smallFileSystem(join(directory.path, 'scratch'), 'size=1M');
    const { path } = readOnly;
    const guard = guardScratch(path, () => {
      given.resolve(undefined);
      return Promise.resolve();
    });
    await output('mount', ['-o', 'remount,ro', path]);
    await given.promise;
    assert.equal(guard.failure?.reason, 'SCRATCH_FAILED');
    guard.close();
    await assert.rejects(requireScratchSpace(path), { reason: 'SCRATCH_FAILED', message: /read-only/i });
  });

  it('is still looked after when giving up fails', async () => {
    const given = Promise.withResolvers<undefined>();
    const guard = guardScratch(
      '/scratch',
      () => {
        given.resolve(undefined);
        return Promise.reject(new Error('libvirt does not answer'));
      },
      shrinking(1),
    );
    await given.promise;
    assert.equal(guard.failure?.reason, 'SCRATCH_FULL');
    guard.close();
  });

  it('is not looked at any more once the guard is closed', async () => {
    let looks = 0;
    const first = Promise.withResolvers<undefined>();
    const guard = guardScratch(
      '/scratch',
      () => Promise.reject(new Error('must not be given up')),
      () => {
        looks += 1;
        first.resolve(undefined);
        return shrinking(9_000)();
      },
    );
    await first.promise;
    guard.close();
    assert.equal(guard.failure, undefined);
    assert.equal(looks, 1);
  });
});
