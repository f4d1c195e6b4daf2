import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { mkdir, open, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { MIB } from '@holdfast/common/bytes.ts';
import type { HoldfastError } from '@holdfast/common/errors.ts';
import { Stage, type DamageFound } from '@holdfast/proto/holdfast/v1/event.ts';
import { chunkBytesFor, WHOLE, type Sample } from '../digests/chunks.ts';
import { contentKey } from '../digests/chunkDigest.ts';
import { ZEROES } from '../digests/digestList.ts';
import { layoutName, type ImageLayout } from '../qemu/layout.ts';
import { watchRepository, type WatchedRepository } from '../repository/liveness.ts';
import { imageOf, KEY, never, rawSource } from '../testing/daemon.ts';
import { temporaryDirectory } from '../testing/directory.ts';
import { openLocal } from '../testing/repository.ts';
import { runStage, stageContext } from '../testing/stageContext.ts';
import { prove, type ProvableImage } from './prove.ts';
import { readFiles } from './readFiles.ts';
import { readImages } from './readImages.ts';

const BYTES = 8 * MIB;
const stage = Stage.STAGE_DIGEST;

interface Made {
  readonly image: ProvableImage;
  readonly repository: WatchedRepository;
  readonly context: ReturnType<typeof stageContext>;
  /** Flips a bit of the file. */
  readonly flip: (offset: number) => Promise<void>;
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
    const image = {
      ...bare,
      stored: { chunkBytes, digests: stored.get('vda')?.digests ?? [], origin: 'file' },
      content: { chunkBytes: MIB, digests: content.get('vda')?.digests ?? [], origin: 'snapshot' },
    };
    const flip = async (offset: number): Promise<void> => {
      await using handle = await open(path, 'r+');
      const byte = Buffer.alloc(1);
      await handle.read(byte, 0, 1, offset);
      byte[0] = (byte[0] ?? 0) ^ 1;
      await handle.write(byte, 0, 1, offset);
    };
    await use({ image, repository, context, flip });
  } finally {
    repository.close();
  }
}

const proving = ({ context, repository, image }: Made, level: string, sample: Sample = WHOLE) =>
  runStage(context.told, prove(context, repository, [image], { level, sample, damage: 'BACKUP_DAMAGED' }));

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
          const chunks = { metadata: 0, stored: image.stored?.digests.length, content: 8 }[level];
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
    await make(directory.path, { compression: 'zstd', encrypted: false }, async ({ image }) => {
      const raw = await readFile(join(directory.path, 'source.raw'));
      const expected = Array.from({ length: 8 }, (_, chunk) => {
        const bytes = raw.subarray(chunk * MIB, (chunk + 1) * MIB);
        return bytes.every((byte) => byte === 0) ? ZEROES : createHash('sha256').update(bytes).digest('hex');
      });
      assert.deepEqual(image.content?.digests, expected);
      assert.ok(expected.includes(ZEROES));
    });
    assert.notDeepEqual(contentKey(KEY), Buffer.from(KEY.reveal()));
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

  it('not to a level for which there are no digests', async () => {
    await using directory = await temporaryDirectory();
    await make(directory.path, { compression: '', encrypted: false }, async (made) => {
      const without = { ...made, image: { ...made.image, content: undefined } };
      await assert.rejects(proving(without, 'content'), { reason: 'DIGESTS_MISSING' });
    });
  });
});
