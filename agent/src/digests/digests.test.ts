import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import fc from 'fast-check';
import { MIB } from '@holdfast/common/bytes.ts';
import { chunkDigest, PIECE_BYTES } from './chunkDigest.ts';
import { chunkBytesFor, chunkCount, sampledChunks } from './chunks.ts';
import { startDigester } from './digester.ts';
import { encodeDigests, parseDigests, rangesOf, UNREADABLE, ZEROES } from './digestList.ts';

const sha256 = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');
const TIB = 2 ** 40;

describe('chunks', () => {
  it('are as many as a list can hold, and no longer than 64 MiB', () => {
    assert.equal(chunkBytesFor(0), MIB);
    assert.equal(chunkBytesFor(64 * 1_024 * MIB), MIB);
    assert.equal(chunkBytesFor(64 * 1_024 * MIB + 1), 2 * MIB);
    assert.equal(chunkBytesFor(4 * TIB), 64 * MIB);
    assert.equal(chunkBytesFor(100 * TIB), 64 * MIB);
  });

  it('are all read once by as many samples in a row as there are parts', () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 100 }), fc.nat(500), fc.nat(10 ** 9), (percent, count, first) => {
        const parts = Math.max(1, Math.min(Math.floor(100 / percent), count));
        const runs = Array.from({ length: parts }, (_, run) =>
          sampledChunks(count, { percent, index: first + run }),
        );
        assert.deepEqual(
          runs.flat().sort((left, right) => left - right),
          Array.from({ length: count }, (_, chunk) => chunk),
        );
        assert.ok(count === 0 || runs.every((run) => run.length > 0));
      }),
    );
  });
});

describe('a digest of a chunk', () => {
  const data = randomBytes(PIECE_BYTES);

  it('is SHA-256, whether zeroes were read or skipped', () => {
    const whole = Buffer.concat([Buffer.alloc(2 * PIECE_BYTES), data, Buffer.alloc(100)]);
    const read = chunkDigest(undefined);
    for (let at = 0; at < whole.length; at += PIECE_BYTES) read.update(whole.subarray(at, at + PIECE_BYTES));
    const skipped = chunkDigest(undefined);
    skipped.skip(2 * PIECE_BYTES);
    skipped.update(data);
    skipped.skip(100);
    assert.deepEqual([read.end(), skipped.end()], [sha256(whole), sha256(whole)]);
  });

  it('of nothing but zeroes is the word for that', () => {
    const digest = chunkDigest(undefined);
    digest.skip(10);
    digest.update(Buffer.alloc(10));
    assert.equal(digest.end(), ZEROES);
  });

  it('under a key is another', () => {
    const keyed = chunkDigest(Buffer.alloc(32, 1));
    keyed.update(data);
    assert.notEqual(keyed.end(), sha256(data));
  });
});

describe('a digester', () => {
  const chunkBytes = 4 * PIECE_BYTES;

  it('digests chunks piece by piece, in their order, with the zeroes between, and tells those with a gap', async () => {
    const digester = startDigester(undefined);
    try {
      const [first, second] = [randomBytes(PIECE_BYTES), randomBytes(100)];
      const late = Promise.withResolvers<boolean>();
      const give = async (data: Buffer, offset: number, isLast: boolean, arrived: Promise<boolean>) => {
        const slot = await digester.slot();
        data.copy(slot.buffer);
        const chunkEnd = isLast ? chunkBytes : undefined;
        return { digested: digester.digest(slot, { offset, bytes: data.length, chunkEnd }, arrived) };
      };
      const there = Promise.resolve(true);
      const given = [
        await give(first, 0, false, late.promise),
        await give(second, 2 * PIECE_BYTES, true, there),
        await give(first, PIECE_BYTES, false, Promise.resolve(false)),
        await give(second, 3 * PIECE_BYTES, true, there),
        await give(first, 3 * PIECE_BYTES, true, there),
      ];
      late.resolve(true);
      const zeroes = Buffer.alloc(3 * PIECE_BYTES);
      const whole = Buffer.concat([first, zeroes.subarray(0, PIECE_BYTES), second, zeroes]);
      assert.deepEqual(await Promise.all(given.map(({ digested }) => digested)), [
        undefined,
        sha256(whole.subarray(0, chunkBytes)),
        undefined,
        UNREADABLE,
        sha256(Buffer.concat([zeroes, first])),
      ]);
    } finally {
      await digester.close();
    }
  });

  it('that can read no more says so to all that wait', async () => {
    const digester = startDigester(undefined);
    try {
      const slot = await digester.slot();
      const piece = { offset: 0, bytes: PIECE_BYTES, chunkEnd: PIECE_BYTES };
      const gone = Promise.reject<boolean>(new Error('the server is gone'));
      await assert.rejects(digester.digest(slot, piece, gone), /the server is gone/);
      await assert.rejects(digester.slot(), /the server is gone/);
    } finally {
      await digester.close();
    }
  });
});

describe('a list of digests', () => {
  it('is read as it was written, and nothing else is one', () => {
    const digests = [sha256(Buffer.from('a')), ZEROES, sha256(Buffer.from('b'))];
    assert.deepEqual(parseDigests(encodeDigests(digests)), digests);
    assert.deepEqual(parseDigests(encodeDigests([])), []);
    const text = encodeDigests(digests).toString();
    for (const other of [text.slice(0, -1), `${text}x\n`, text.toUpperCase(), '\n', `!\n`]) {
      assert.equal(parseDigests(Buffer.from(other)), undefined, other);
    }
  });

  it('says where chunks are, neighbours as one', () => {
    const bytes = 5 * MIB + 10;
    assert.equal(chunkCount(bytes, MIB), 6);
    assert.deepEqual(rangesOf([0, 2, 3, 5], { bytes, chunkBytes: MIB }), [
      { offset: 0n, length: BigInt(MIB) },
      { offset: BigInt(2 * MIB), length: BigInt(2 * MIB) },
      { offset: BigInt(5 * MIB), length: 10n },
    ]);
  });
});
