import assert from 'node:assert/strict';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import fc from 'fast-check';
import { MIB } from '@holdfast/common/bytes.ts';
import { never, rawSource, realDaemon } from '../testing/daemon.ts';
import { temporaryDirectory } from '../testing/directory.ts';
import { bytesBefore, mapImage, mapNbdExport, totalBytes } from './extents.ts';

const EXPECTED = [
  { start: 0, length: 3 * MIB },
  { start: 6 * MIB, length: 2 * MIB },
];

/** Neighbours that are data are one. */
function joined(extents: readonly { start: number; length: number }[]): { start: number; length: number }[] {
  const result: { start: number; length: number }[] = [];
  for (const { start, length } of extents) {
    const last = result.at(-1);
    if (last !== undefined && last.start + last.length === start) last.length += length;
    else result.push({ start, length });
  }
  return result;
}

describe('the map of a disk', () => {
  it('of an image shows its data and its size', async () => {
    await using directory = await temporaryDirectory();
    const path = join(directory.path, 'a, "b" ö.raw');
    await rawSource(path);
    const options = { driver: 'raw', file: { driver: 'file', filename: path } };
    const map = await mapImage(options, new Map(), directory.path, never);
    assert.deepEqual([map.virtualSizeBytes, joined(map.extents)], [8 * MIB, EXPECTED]);
  });

  it('of an NBD export is the same, whatever the names', async () => {
    await using directory = await temporaryDirectory();
    await using real = await realDaemon(directory.path);
    const path = join(directory.path, 'source');
    await rawSource(path);
    const socket = join(directory.path, 'n, b&d?=ö.sock');
    const { qmp } = real.daemon;
    await qmp.execute('blockdev-add', {
      driver: 'file',
      filename: path,
      'node-name': 'f',
      'read-only': true,
    });
    await qmp.execute('nbd-server-start', { addr: { type: 'unix', data: { path: socket } } });
    for (const [index, name] of ['vda', 'a/b ?&=%ö'].entries()) {
      await qmp.execute('block-export-add', { type: 'nbd', id: `e${index}`, 'node-name': 'f', name });
      const map = await mapNbdExport(socket, name, never);
      assert.deepEqual([map.virtualSizeBytes, joined(map.extents)], [8 * MIB, EXPECTED]);
    }
    await assert.rejects(mapNbdExport(socket, 'none', never), { reason: 'QEMU_FAILED' });
  });

  it('of what is no image is refused', async () => {
    await using directory = await temporaryDirectory();
    const path = join(directory.path, 'x');
    await writeFile(path, 'not a qcow2');
    for (const filename of [path, join(directory.path, 'none')]) {
      const options = { driver: 'qcow2', file: { driver: 'file', filename } };
      await assert.rejects(mapImage(options, new Map(), directory.path, never), { reason: 'QEMU_FAILED' });
    }
  });

  it('counts the data before any address', () => {
    assert.deepEqual(
      [0, MIB, 3 * MIB, 5 * MIB, 7 * MIB, 8 * MIB, 99 * MIB].map(
        (address) => bytesBefore(EXPECTED, address) / MIB,
      ),
      [0, 1, 3, 3, 4, 5, 5],
    );
    const extents = fc.array(fc.tuple(fc.nat(1_000), fc.nat(1_000))).map((gaps) => {
      let end = 0;
      return gaps.map(([gap, length]) => {
        const start = end + gap;
        end = start + length;
        return { start, length };
      });
    });
    fc.assert(
      fc.property(extents, fc.nat(10_000), (all, address) => {
        const here = bytesBefore(all, address);
        const next = bytesBefore(all, address + 1);
        return here <= next && next <= here + 1 && next <= totalBytes(all);
      }),
    );
  });
});
