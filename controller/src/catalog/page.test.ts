import assert from 'node:assert/strict';
import { status } from '@grpc/grpc-js';
import { cutPage, parsePageSize, parsePageToken } from './page.ts';

describe('a page', () => {
  it('has as many entries as are asked for, 100 when nobody says, and never more than 1000', () => {
    assert.deepEqual([0, 1, 1_000].map(parsePageSize), [100, 1, 1_000]);
    assert.throws(() => parsePageSize(-1), { reason: 'INVALID_REQUEST' });
    for (const size of [1_001, 2 ** 31 - 1])
      assert.throws(() => parsePageSize(size), {
        reason: 'PAGE_TOO_LARGE',
        code: status.RESOURCE_EXHAUSTED,
        message: /at most 1000/,
      });
  });

  it('ends early before it is too large for a message, and goes on where it ended', () => {
    const rows = Array.from({ length: 10 }, (_, index) => ({
      id: `${index}`,
      bytes: index === 0 ? 3_000_000 : 900_000,
    }));
    const time = '2026-01-31T12:00:00.000Z';
    const cut = (from: number) =>
      cutPage(
        rows.slice(from),
        20,
        ({ id }) => ({ time, id }),
        ({ bytes }) => bytes,
      );
    const pages: number[] = [];
    let from = 0;
    for (;;) {
      const { page, nextPageToken } = cut(from);
      pages.push(page.length);
      if (nextPageToken === '') break;
      from = Number(parsePageToken(nextPageToken)?.id) + 1;
    }
    assert.deepEqual(pages, [1, 2, 2, 2, 2, 1]);
  });
});
