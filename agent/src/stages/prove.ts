import { HoldfastError } from '@holdfast/common/errors.ts';
import {
  Stage,
  type DamageFound,
  type DiskVerification,
  type VerificationResult,
} from '@holdfast/proto/holdfast/v1/event.ts';
import type { Sample } from '../digests/chunks.ts';
import { rangesOf } from '../digests/digestList.ts';
import type { JobEvent } from '../jobs/eventLog.ts';
import type { Damage } from '../qemu/imageCheck.ts';
import { QmpError } from '../qemu/qmp.ts';
import type { WatchedRepository } from '../repository/liveness.ts';
import { check } from './check.ts';
import type { JobContext, StageEnd } from './context.ts';
import type { DiskDigests } from './digest.ts';
import { readFiles } from './readFiles.ts';
import { readImages, type ReadableImage } from './readImages.ts';
import type { ChunkDigests } from './readDisks.ts';

/** An image with the digests that it should have. */
export interface ProvableImage extends ReadableImage {
  /** Its path relative to the repository. */
  readonly file: string;
  readonly stored: DiskDigests | undefined;
  readonly content: DiskDigests | undefined;
}

export interface ProveOptions {
  /** metadata, stored, content, or source, which is the content against digests of the snapshot. */
  readonly level: string;
  readonly sample: Sample;
  /** What damage means. */
  readonly damage: Damage;
}

/** As many damaged ranges of a disk are listed. */
const MAX_RANGES = 1_000;
/** As many stand in the error, for people. */
const NAMED_RANGES = 5;

/**
 * Proves images to a level. All of them are looked at before damage ends it.
 *
 * @throws HoldfastError `damage`, DIGESTS_MISSING; what the repository itself answers when that fails, which proves nothing
 */
export async function* prove(
  context: JobContext,
  repository: WatchedRepository,
  images: readonly ProvableImage[],
  { level, sample, damage }: ProveOptions,
): AsyncGenerator<JobEvent, StageEnd<VerificationResult>, undefined> {
  requireDigests(images, level);
  let disks: readonly DiskVerification[] = images.map(({ target }) => noVerification(target));
  // Without a key, and so without this check, `stored` proves all bytes of the files, their metadata too.
  if (level !== 'stored') ({ result: disks } = yield* check(context, repository, images, damage));
  let readBytes = images.reduce((sum, { storedBytes }) => sum + storedBytes, 0);
  let samplePercent = 100;
  if (level !== 'metadata') {
    const kind = level === 'stored' ? 'stored' : 'content';
    samplePercent = sample.percent;
    for (const { file } of images) await repository.dropCache(file);
    const stage = Stage.STAGE_CHECK;
    const found =
      kind === 'stored'
        ? yield* readFiles(context, repository, images.map(fileOf), { stage, sample, limited: true })
        : yield* readContent(context, repository, images, sample, damage);
    readBytes = yield* compare(images, kind, found, damage);
    disks = disks.map((disk, index) => {
      const image = images[index];
      const chunks = found.get(disk.target)?.chunks.length ?? 0;
      const all = image?.[kind]?.digests.length ?? 0;
      return { ...disk, comparedChunks: BigInt(chunks), totalChunks: BigInt(all) };
    });
  }
  const bytes = BigInt(readBytes);
  return {
    result: { level, disks, samplePercent },
    figures: { processedBytes: bytes, totalBytes: bytes, inputBytes: bytes },
  };
}

/** @throws HoldfastError DIGESTS_MISSING */
export function requireDigests(
  images: readonly Pick<ProvableImage, 'target' | 'stored' | 'content'>[],
  level: string,
): void {
  if (level === 'metadata') return;
  const kind = level === 'stored' ? 'stored' : 'content';
  const without = images.filter((image) => image[kind] === undefined).map(({ target }) => target);
  if (without.length === 0) return;
  throw new HoldfastError(
    'DIGESTS_MISSING',
    `The backup was taken without ${kind} digests of ${without.join(', ')}, so level ${level} cannot be proved. Verify it ` +
      `at another level, and set nas.backup.integrity.digests to ${kind} for the next ones.`,
    { metadata: { disk: without[0] ?? '' } },
  );
}

/** Reads the content; an image that QEMU cannot open is damaged, unless the repository has a fault. */
async function* readContent(
  context: JobContext,
  repository: WatchedRepository,
  images: readonly ProvableImage[],
  sample: Sample,
  damage: Damage,
): AsyncGenerator<JobEvent, ReadonlyMap<string, ChunkDigests>, undefined> {
  try {
    return yield* readImages(
      context,
      repository,
      images.map((image) => ({ ...image, chunkBytes: image.content?.chunkBytes ?? 0 })),
      { stage: Stage.STAGE_CHECK, sample },
    );
  } catch (error) {
    const isOpening = error instanceof QmpError || /cannot be read/.test(String(error));
    if (!isOpening || context.control.signal.aborted) throw error;
    await repository.answers();
    throw new HoldfastError(damage, `An image of the backup cannot be opened: ${(error as Error).message}`, {
      cause: error,
    });
  }
}

/** Tells the damage, if there is any, and ends with it. @returns what was read, in bytes */
function* compare(
  images: readonly ProvableImage[],
  kind: 'stored' | 'content',
  found: ReadonlyMap<string, ChunkDigests>,
  damage: Damage,
): Generator<JobEvent, number, undefined> {
  let readBytes = 0;
  const damages: DamageFound[] = [];
  for (const image of images) {
    const expected = image[kind];
    const read = found.get(image.target);
    if (expected === undefined || read === undefined) throw new Error(`disk ${image.target} was not read`);
    const bytes = kind === 'stored' ? image.storedBytes : image.virtualSizeBytes;
    readBytes += Math.min(bytes, read.chunks.length * expected.chunkBytes);
    const bad = read.chunks.filter((chunk, index) => read.digests[index] !== expected.digests[chunk]);
    if (bad.length === 0) continue;
    const ranges = rangesOf(bad, { bytes, chunkBytes: expected.chunkBytes });
    const listed = ranges.slice(0, MAX_RANGES);
    damages.push({ target: image.target, level: kind, ranges: listed, more: ranges.length > MAX_RANGES });
  }
  for (const value of damages) yield { $case: 'damageFound', value };
  const [first] = damages;
  if (first === undefined) return readBytes;
  const targets = damages.map(({ target }) => target).join(', ');
  const named = first.ranges
    .slice(0, NAMED_RANGES)
    .map(({ offset, length }) => `${offset} to ${offset + length - 1n}`);
  throw new HoldfastError(
    damage,
    `Disk ${targets}: ${kind === 'stored' ? 'the image file is not as it was written' : 'the content is not what it was'}. ` +
      `Damaged bytes of disk ${first.target}: ${named.join(', ')}${first.ranges.length > NAMED_RANGES ? ' and more' : ''}.`,
    { metadata: { disk: first.target } },
  );
}

function fileOf({ target, file, storedBytes, stored }: ProvableImage) {
  return { target, path: file, bytes: storedBytes, chunkBytes: stored?.chunkBytes ?? 1 };
}

function noVerification(target: string): DiskVerification {
  return { target, leakedClusters: 0n, comparedChunks: 0n, totalChunks: 0n };
}
