import assert from 'node:assert/strict';
import { formatBytes, formatLimit, formatRate } from './bytes.ts';
import { formatDuration, formatTime } from './duration.ts';
import { pairs, table } from './table.ts';
import { jsonLine, safe } from './text.ts';

describe('format', () => {
  it('writes bytes in binary units with one decimal', () => {
    const cases: [bigint, string][] = [
      [0n, '0 B'],
      [1023n, '1023 B'],
      [1024n, '1.0 KiB'],
      [1536n, '1.5 KiB'],
      [1024n * 1024n - 1n, '1.0 MiB'],
      [3n * 1024n ** 3n, '3.0 GiB'],
      [2n * 1024n ** 4n, '2.0 TiB'],
    ];
    for (const [bytes, text] of cases) assert.equal(formatBytes(bytes), text);
  });

  it('writes rates always in MiB/s, as limits are', () => {
    assert.equal(formatRate(40 * 1024 ** 2), '40.0 MiB/s');
    assert.equal(formatRate(2048 * 1024 ** 2), '2048.0 MiB/s');
    assert.equal(formatLimit(0n), 'unlimited');
    assert.equal(formatLimit(40n), '40 MiB/s');
  });

  it('writes durations as people say them', () => {
    const cases: [number, string][] = [
      [0, '0ms'],
      [340, '340ms'],
      [999.6, '1.0s'],
      [4_200, '4.2s'],
      [9_960, '10s'],
      [59_600, '1m00s'],
      [72_000, '1m12s'],
      [7_500_000, '2h05m'],
      [273_600_000, '3d04h'],
      [-5, '0ms'],
    ];
    for (const [ms, text] of cases) assert.equal(formatDuration(ms), text);
  });

  it('writes times as UTC to the second', () => {
    assert.equal(formatTime(new Date('2026-01-02T03:04:05.678Z')), '2026-01-02 03:04:05Z');
    assert.equal(formatTime(undefined), '-');
  });

  it('shows hostile names instead of obeying them', () => {
    assert.equal(safe('\u001b[2Jvm\n\u009b31m\u202eexe.\u007f'), '\\x1b[2Jvm\\x0a\\x9b31m\\u202eexe.\\x7f');
    assert.equal(safe('größe 虚拟'), 'größe 虚拟');
    assert.equal(safe('\ud800'), '\ufffd');
  });

  it('writes JSON that gives back the same name and is as safe', () => {
    const name = 'a\u009b\u202e\n';
    const line = jsonLine({ name });
    assert.equal(line, '{"name":"a\\u009b\\u202e\\n"}');
    assert.deepEqual(JSON.parse(line), { name });
  });

  it('lines columns up and leaves no blanks at the end', () => {
    const lines = table(
      [{ title: 'NAME' }, { title: 'SIZE', align: 'right' }, { title: 'X' }],
      [
        ['vm\n1', '1.0 KiB', ''],
        ['long-name', '2 B', 'y'],
      ],
    );
    assert.deepEqual(lines, ['NAME          SIZE  X', 'vm\\x0a1    1.0 KiB', 'long-name      2 B  y']);
    assert.deepEqual(
      pairs([
        ['A', '1'],
        ['Long', '2'],
      ]),
      ['A     1', 'Long  2'],
    );
  });
});
