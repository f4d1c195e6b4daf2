import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { mkdir, open, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import fc from 'fast-check';
import { MIB } from '@holdfast/common/bytes.ts';
import type { HoldfastError } from '@holdfast/common/errors.ts';
import { Stage, type DamageFound } from '@holdfast/proto/holdfast/v1/event.ts';
import { chunkBytesFor, WHOLE, type Sample } from '../digests/chunks.ts';
import { contentKey } from '../digests/chunkDigest.ts';
import { ZEROES } from '../digests/digestList.ts';
import { run } from '../process/run.ts';
import { layoutName, type ImageLayout } from '../qemu/layout.ts';
import { killStorageDaemon } from '../qemu/storageDaemon.ts';
import { watchRepository, type WatchedRepository } from '../repository/liveness.ts';
import { imageOf, KEY, never, rawSource } from '../testing/daemon.ts';
import { temporaryDirectory } from '../testing/directory.ts';
import { openLocal } from '../testing/repository.ts';
import { runStage, stageContext } from '../testing/stageContext.ts';
import type { DiskDigests } from './digest.ts';
import { prove, type ProvableImage } from './prove.ts';
import type { ChunkDigests } from './readDisks.ts';
import { readFiles } from './readFiles.ts';
import { readImages } from './readImages.ts';

const BYTES = 8 * MIB;
const stage = Stage.STAGE_DIGEST;

interface Made {
  readonly image: Omit<ProvableImage, 'digests'>;
  readonly stored: DiskDigests;
  readonly content: DiskDigests;
  readonly repository: WatchedRepository;
  readonly context: ReturnType<typeof stageContext>;
  /** Flips a bit of the file; the lowest of the byte when none is said. */
  readonly flip: (offset: number, bit?: number) => Promise<void>;
}

/** An image in a repository with both kinds of digests. */
async function make(
  directory: string,
  layout: ImageLayout,
  use: (made: Made) => Promise<void>,
): Promise<void> {
  const source = join(directory, 'source.raw');
  const path = join(directory, 'nas', 'vda.img');
  const runtime = join(directory, 'run');
  for (const folder of ['nas', 'run', 'made']) await mkdir(join(directory, folder));
  await rawSource(source);
  await imageOf(join(directory, 'made'), path, layout, source);
  await using context = stageContext(runtime);
  const repository = watchRepository(openLocal(join(directory, 'nas')), {
    waitMs: 0,
    signal: never,
    tell: () => undefined,
  });
  try {
    const { size: storedBytes } = await stat(path);
    const bare = {
      ...{ target: 'vda', path, file: 'vda.img', layout: layoutName(layout), storedBytes },
      ...{ secret: layout.encrypted ? KEY : undefined, virtualSizeBytes: BYTES },
    };
    const chunkBytes = chunkBytesFor(storedBytes);
    const file = { target: 'vda', path: 'vda.img', bytes: storedBytes, chunkBytes };
    const stored = await runStage(
      context.told,
      readFiles(context, repository, [file], { stage, sample: WHOLE, limited: true }),
    );
    const content = await runStage(
      context.told,
      readImages(context, repository, [bare], { stage, sample: WHOLE }),
    );
    const digests = (
      chunks: ReadonlyMap<string, ChunkDigests>,
      bytes: number,
      origin: string,
    ): DiskDigests => ({
      ...{ chunkBytes: bytes, digests: chunks.get('vda')?.digests ?? [], origin },
    });
    const flip = async (offset: number, bit = 0): Promise<void> => {
      await using handle = await open(path, 'r+');
      const byte = Buffer.alloc(1);
      await handle.read(byte, 0, 1, offset);
      byte[0] = (byte[0] ?? 0) ^ (1 << bit);
      await handle.write(byte, 0, 1, offset);
    };
    await use({
      ...{ image: bare, repository, context, flip },
      stored: digests(stored, chunkBytes, 'file'),
      content: digests(content, MIB, 'snapshot'),
    });
  } finally {
    repository.close();
  }
}

const proving = (made: Made, level: string, sample: Sample = WHOLE) => {
  const { context, repository } = made;
  const digests = { stored: made.stored, content: made.content }[level];
  const image = { ...made.image, digests };
  return runStage(
    context.told,
    prove(context, repository, [image], { level, sample, damage: 'BACKUP_DAMAGED' }),
  );
};

const damagesIn = ({ context }: Made): readonly DamageFound[] =>
  context.told.flatMap((event) => (event.$case === 'damageFound' ? [event.value] : []));

describe('images are proved', () => {
  for (const layout of [
    { compression: '', encrypted: false },
    { compression: 'zstd', encrypted: false },
    { compression: '', encrypted: true },
    { compression: 'zstd', encrypted: true },
  ] as const) {
    const name = `${layout.compression || 'plain'}${layout.encrypted ? ', encrypted' : ''}`;
    it(`to all levels when they are sound, and a flipped bit of data is found and located: ${name}`, async () => {
      await using directory = await temporaryDirectory();
      await make(directory.path, layout, async (made) => {
        const { image } = made;
        for (const level of ['metadata', 'stored', 'content']) {
          const { disks, samplePercent } = (await proving(made, level)).result;
          assert.equal(samplePercent, 100);
          const chunks = { metadata: 0, stored: made.stored.digests.length, content: 8 }[level];
          assert.deepEqual(disks, [
            {
              ...{ target: 'vda', leakedClusters: 0n },
              ...{ comparedChunks: BigInt(chunks ?? 0), totalChunks: BigInt(chunks ?? 0) },
            },
          ]);
        }
        // Text and random bytes are all that is written, so what lies in the middle of the file's last MiB is data.
        const at = image.storedBytes - MIB / 2;
        await made.flip(at);
        const { result } = await proving(made, 'metadata');
        assert.equal(result.level, 'metadata', 'metadata is all that qemu-img looks at');
        await assert.rejects(proving(made, 'stored'), { reason: 'BACKUP_DAMAGED', message: /vda/ });
        await assert.rejects(proving(made, 'content'), { reason: 'BACKUP_DAMAGED', message: /vda/ });
        const [stored, content] = damagesIn(made);
        const chunk = Math.floor(at / MIB) * MIB;
        assert.deepEqual(stored?.ranges, [
          { offset: BigInt(chunk), length: BigInt(Math.min(MIB, image.storedBytes - chunk)) },
        ]);
        assert.equal(content?.ranges.length, 1);
        assert.equal((content.ranges[0]?.offset ?? 0n) % BigInt(MIB), 0n);
      });
    });
  }

  it('as the guest sees them: the digests are those of its bytes, keyed when the backup is encrypted', async () => {
    await using directory = await temporaryDirectory();
    await make(directory.path, { compression: 'zstd', encrypted: false }, async ({ content }) => {
      const raw = await readFile(join(directory.path, 'source.raw'));
      const expected = Array.from({ length: 8 }, (_, chunk) => {
        const bytes = raw.subarray(chunk * MIB, (chunk + 1) * MIB);
        return bytes.every((byte) => byte === 0) ? ZEROES : createHash('sha256').update(bytes).digest('hex');
      });
      assert.deepEqual(content.digests, expected);
      assert.ok(expected.includes(ZEROES));
    });
    assert.notDeepEqual(contentKey(KEY), Buffer.from(KEY.reveal()));
  });

  it('so that no flipped bit passes `stored`, and none passes `content` that changes what the guest sees', async () => {
    await using directory = await temporaryDirectory();
    await make(directory.path, { compression: '', encrypted: false }, async (made) => {
      const { image, flip } = made;
      const source = join(directory.path, 'source.raw');
      const isSame = async (): Promise<boolean> => {
        const compare = ['compare', '-f', 'qcow2', '-F', 'raw', image.path, source];
        return (await run('qemu-img', compare, { deadlineMs: 60_000 })).exitCode === 0;
      };
      const found = (level: string): Promise<boolean> =>
        proving(made, level).then(
          () => false,
          (error: unknown) => {
            assert.equal((error as HoldfastError).reason, 'BACKUP_DAMAGED', String(error));
            return true;
          },
        );
      await fc.assert(
        fc.asyncProperty(fc.nat(image.storedBytes - 1), fc.nat(7), async (offset, bit) => {
          await flip(offset, bit);
          assert.ok(await found('stored'), 'stored');
          const at = BigInt(offset);
          const ranges = damagesIn(made).at(-1)?.ranges ?? [];
          assert.ok(ranges.some((range) => range.offset <= at && at < range.offset + range.length));
          assert.ok((await found('content')) || (await isSame()), 'content');
          await flip(offset, bit);
          assert.ok(!(await found('stored')), 'a false alarm');
        }),
        { numRuns: 8 },
      );
    });
  });

  it('in parts: each sample looks at its own chunks, and all of them together find it', async () => {
    await using directory = await temporaryDirectory();
    await make(directory.path, { compression: '', encrypted: false }, async (made) => {
      await made.flip(made.image.storedBytes - MIB / 2);
      for (const level of ['stored', 'content']) {
        const ends = [];
        for (let index = 0; index < 4; index++) {
          ends.push(
            await proving(made, level, { percent: 25, index }).then(
              ({ result }) => result.samplePercent,
              (error: unknown) => (error as HoldfastError).reason,
            ),
          );
        }
        assert.deepEqual(ends.map(String).sort(), ['25', '25', '25', 'BACKUP_DAMAGED']);
      }
    });
  });

  it('as damaged when they are not what QEMU can read, and not when QEMU itself was killed', async () => {
    await using directory = await temporaryDirectory();
    await make(directory.path, { compression: '', encrypted: false }, async (made) => {
      const longer = { ...made, image: { ...made.image, virtualSizeBytes: BYTES + MIB } };
      await assert.rejects(proving(longer, 'content'), {
        reason: 'BACKUP_DAMAGED',
        message: /8388608 bytes/,
      });

      const { context, image, content } = made;
      await context.control.setLimit(1);
      const options = { level: 'content', sample: WHOLE, damage: 'BACKUP_DAMAGED' } as const;
      const run = prove(context, made.repository, [{ ...image, digests: content }], options);
      await assert.rejects(
        (async () => {
          for (;;) {
            const { value, done } = await run.next();
            if (done === true) return;
            if (value.$case === 'stageProgress') await killStorageDaemon(context.runtimeDirectory);
          }
        })(),
        { reason: 'QEMU_FAILED' },
      );
    });
  });
});
