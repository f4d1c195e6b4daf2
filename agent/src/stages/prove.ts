import { HoldfastError } from '@holdfast/common/errors.ts';
import {
  Stage,
  type DamageFound,
  type DiskVerification,
  type VerificationResult,
} from '@holdfast/proto/holdfast/v1/event.ts';
import type { Sample } from '../digests/chunks.ts';
import { rangesOf, UNREADABLE } from '../digests/digestList.ts';
import type { JobEvent } from '../jobs/eventLog.ts';
import { UnreadableImage } from '../qemu/extents.ts';
import type { Damage } from '../qemu/imageCheck.ts';
import type { WatchedRepository } from '../repository/liveness.ts';
import { check } from './check.ts';
import type { JobContext, StageEnd } from './context.ts';
import type { DiskDigests } from './digest.ts';
import { readFiles } from './readFiles.ts';
import {
  beginOpening,
  readOpened,
  type Opening,
  type ReadableImage,
  type ReadImagesOptions,
} from './readImages.ts';
import type { ChunkDigests } from './readDisks.ts';

/** An image with the digests that it should have: those that the level compares, none for metadata. */
export interface ProvableImage extends ReadableImage {
  /** Its path relative to the repository. */
  readonly file: string;
  readonly digests: DiskDigests | undefined;
}

export interface ProveOptions {
  /** metadata, stored, content, or source, which is the content against digests of the snapshot. */
  readonly level: string;
  readonly sample: Sample;
  /** What damage means. */
  readonly damage: Damage;
}

/** An image, and what is to be found in it. */
interface Comparison {
  readonly image: ProvableImage;
  readonly expected: DiskDigests;
}

/** As many damaged ranges of a disk are listed. */
const MAX_RANGES = 1_000;
/** As many stand in the error, for people. */
const NAMED_RANGES = 5;

/**
 * Proves images to a level. All of them are looked at before damage ends it. What the kernel has of them in memory is to be
 * dropped before.
 *
 * @throws HoldfastError `damage`; what the repository itself answers when that fails, which proves nothing
 */
export async function* prove(
  context: JobContext,
  repository: WatchedRepository,
  images: readonly ProvableImage[],
  { level, sample, damage }: ProveOptions,
): AsyncGenerator<JobEvent, StageEnd<VerificationResult>, undefined> {
  let disks: readonly DiskVerification[] = images.map(({ target }) => noVerification(target));
  const wanted = level === 'metadata' ? [] : images.map(comparison);
  // Meanwhile, since it takes as long as the check of an image of a few GiB.
  await using opening =
    level === 'metadata' || level === 'stored'
      ? undefined
      : beginOpening(context, repository, wanted.map(imageOf));
  // Without a key, and so without this check, `stored` proves all bytes of the files, their metadata too.
  if (level !== 'stored') ({ result: disks } = yield* check(context, repository, images, damage));
  let readBytes = images.reduce((sum, { storedBytes }) => sum + storedBytes, 0);
  let samplePercent = 100;
  if (level !== 'metadata') {
    samplePercent = sample.percent;
    const options = { stage: Stage.STAGE_CHECK, sample };
    const found =
      opening === undefined
        ? yield* readFiles(context, repository, wanted.map(fileOf), { ...options, limited: true })
        : yield* readContent(context, repository, opening, options, damage);
    readBytes = yield* compare(wanted, opening === undefined ? 'stored' : 'content', found, damage);
    disks = wanted.map(({ image: { target }, expected }, index) => ({
      ...(disks[index] ?? noVerification(target)),
      comparedChunks: BigInt(found.get(target)?.chunks.length ?? 0),
      totalChunks: BigInt(expected.digests.length),
    }));
  }
  const bytes = BigInt(readBytes);
  return {
    result: { level, disks, samplePercent },
    figures: { processedBytes: bytes, totalBytes: bytes, inputBytes: bytes },
  };
}

/** Reads the content. What QEMU cannot open or read is damaged, unless the repository has a fault. */
async function* readContent(
  context: JobContext,
  repository: WatchedRepository,
  opening: Opening,
  options: ReadImagesOptions,
  damage: Damage,
): AsyncGenerator<JobEvent, ReadonlyMap<string, ChunkDigests>, undefined> {
  try {
    const found = yield* readOpened(context, repository, opening, options);
    const isWhole = [...found.values()].every(({ digests }) => !digests.includes(UNREADABLE));
    if (!isWhole) await repository.answers();
    return found;
  } catch (error) {
    if (!(error instanceof UnreadableImage)) throw error;
    await repository.answers();
    throw new HoldfastError(damage, error.message, { metadata: { ...error.metadata }, cause: error });
  }
}

/** Tells the damage, if there is any, and ends with it. @returns what was read, in bytes */
function* compare(
  wanted: readonly Comparison[],
  kind: 'stored' | 'content',
  found: ReadonlyMap<string, ChunkDigests>,
  damage: Damage,
): Generator<JobEvent, number, undefined> {
  let readBytes = 0;
  const damages: DamageFound[] = [];
  for (const { image, expected } of wanted) {
    const read = found.get(image.target);
    if (read === undefined) throw new Error(`disk ${image.target} was not read`);
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

function comparison(image: ProvableImage): Comparison {
  const { target, digests } = image;
  if (digests === undefined) throw new Error(`disk ${target} has no digests to be compared with`);
  return { image, expected: digests };
}

function imageOf({ image, expected: { chunkBytes } }: Comparison): ReadableImage {
  return { ...image, chunkBytes };
}

function fileOf({ image: { target, file, storedBytes }, expected: { chunkBytes } }: Comparison) {
  return { target, path: file, bytes: storedBytes, chunkBytes };
}

function noVerification(target: string): DiskVerification {
  return { target, leakedClusters: 0n, comparedChunks: 0n, totalChunks: 0n };
}
