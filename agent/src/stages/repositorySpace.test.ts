import assert from 'node:assert/strict';
import { join } from 'node:path';
import { MIB } from '@holdfast/common/bytes.ts';
import { controlOf } from '../jobs/control.ts';
import { temporaryDirectory } from '../testing/directory.ts';
import { output } from '../testing/mount.ts';
import { requireRepositorySpace, requireReserve, type SpaceDisk } from './repositorySpace.ts';

describe('the space that a backup needs', () => {
  const context = { control: controlOf(0), runtimeDirectory: '/nowhere' };
  const free = (freeMib: number) => ({
    name: 'nas',
    space: { sizeBytes: 1_000 * MIB, freeBytes: freeMib * MIB, usedBytes: (1_000 - freeMib) * MIB },
  });
  const disk = (more: Partial<SpaceDisk>): SpaceDisk => ({
    target: 'vda',
    dataBytes: undefined,
    allocatedBytes: 0,
    options: undefined,
    ...more,
  });
  const full = { reason: 'REPOSITORY_FULL' };

  it('is its data, as the last backup stored it, and what is kept free', async () => {
    const disks = [disk({ dataBytes: 300 * MIB }), disk({ dataBytes: 100 * MIB })];
    const fits = (freeMib: number, storedRatio: number | undefined) =>
      requireRepositorySpace(context, free(freeMib), disks, { storedRatio, reservePercent: 5 });
    await fits(450, 1);
    await assert.rejects(fits(449, 1), { ...full, message: /400 MiB.*nas has 449 MiB free, of which 50/ });
    await fits(250, 0.5);
    await assert.rejects(fits(249, 0.5), full);
    // Who knows how well it can be compressed; but what is kept free is not touched.
    await fits(51, undefined);
    await assert.rejects(fits(50, undefined), full);
  });

  it('is counted in the source when what that takes would not fit, and no reason when it cannot be', async () => {
    await using directory = await temporaryDirectory();
    const path = join(directory.path, 'preallocated');
    await output('fallocate', ['-l', String(64 * MIB), path]);
    const options = {
      driver: 'raw',
      file: { driver: 'file', filename: path, locking: 'off' },
      'read-only': true,
    };
    const need = { storedRatio: 1, reservePercent: 0 };
    const preallocated = disk({ allocatedBytes: 64 * MIB, options });
    await requireRepositorySpace(context, free(1), [preallocated], need);
    await output('dd', ['if=/dev/urandom', `of=${path}`, 'bs=1M', 'count=2', 'conv=notrunc', 'status=none']);
    await assert.rejects(requireRepositorySpace(context, free(1), [preallocated], need), full);
    await requireRepositorySpace(context, free(2), [preallocated], need);
    const unknown = disk({ allocatedBytes: 64 * MIB, options: undefined });
    await requireRepositorySpace(context, free(1), [unknown], need);
    const gone = { ...options, file: { ...options.file, filename: `${path}.gone` } };
    await requireRepositorySpace(context, free(1), [{ ...preallocated, options: gone }], need);
  });

  it('may use up all but what is kept free while it runs', () => {
    const { space } = free(50);
    requireReserve('nas', undefined, 5);
    requireReserve('nas', space, 5);
    requireReserve('nas', { ...space, freeBytes: 0 }, 0);
    assert.throws(() => {
      requireReserve('nas', { ...space, freeBytes: 50 * MIB - 1 }, 5);
    }, full);
  });
});
