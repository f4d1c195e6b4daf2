import { setTimeout as sleep } from 'node:timers/promises';
import pMap from 'p-map';
import type { Stage } from '@holdfast/proto/holdfast/v1/event.ts';
import { chunkCount, chunkLength, sampledChunks, type Sample } from '../digests/chunks.ts';
import type { Control } from '../jobs/control.ts';
import type { Repository } from '../repository/repository.ts';
import type { JobContext, StageRun } from './context.ts';
import type { ChunkDigests } from './readDisks.ts';
import { whileTelling } from './whileTelling.ts';

/** A file of a backup. */
export interface ReadableFile {
  readonly target: string;
  /** Relative to the repository. */
  readonly path: string;
  readonly bytes: number;
  readonly chunkBytes: number;
}

export interface ReadFilesOptions {
  /** Of which the progress is told. */
  readonly stage: Stage;
  readonly sample: Sample;
  /** Whether the limit holds for it. It does not for what was just written and is still in memory. */
  readonly limited: boolean;
}

/** Chunks of a file that are in work at the same time: the next ones are read while one is digested. */
const CHUNKS_AT_ONCE = 3;

/**
 * Reads files of a repository, all at once, in its helper process, and digests them: what is in the page cache is read
 * from there, what is not comes from the storage.
 *
 * @throws HoldfastError REPOSITORY_FAILED, REPOSITORY_STALLED
 */
export async function* readFiles(
  context: Pick<JobContext, 'control' | 'now'>,
  repository: Repository,
  files: readonly ReadableFile[],
  { stage, sample, limited }: ReadFilesOptions,
): StageRun<ReadonlyMap<string, ChunkDigests>> {
  const { control } = context;
  const pace = paceOf(control, limited);
  const release = await control.steer(pace, () => Promise.resolve());
  let readBytes = 0;
  let totalBytes = 0;
  const read = async (file: ReadableFile, chunks: readonly number[]): Promise<[string, ChunkDigests]> => {
    const digestOf = async (chunk: number): Promise<string> => {
      const bytes = chunkLength(chunk, file.bytes, file.chunkBytes);
      await pace.before(bytes);
      const digest = await repository.digestPart(file.path, chunk * file.chunkBytes, bytes);
      readBytes += bytes;
      control.moved();
      return digest;
    };
    return [file.target, { chunks, digests: await pMap(chunks, digestOf, { concurrency: CHUNKS_AT_ONCE }) }];
  };
  try {
    const all = Promise.all(
      files.map((file) => {
        const chunks = sampledChunks(chunkCount(file.bytes, file.chunkBytes), sample);
        for (const chunk of chunks) totalBytes += chunkLength(chunk, file.bytes, file.chunkBytes);
        return read(file, chunks);
      }),
    );
    return new Map(
      yield* whileTelling(context, stage, all, () => ({
        processedBytes: BigInt(readBytes),
        totalBytes: BigInt(totalBytes),
      })),
    );
  } finally {
    await release();
  }
}

/** Lets no more through than the limit allows, if it holds, and nothing in a pause. */
function paceOf(control: Control, limited: boolean) {
  let bytesPerSecond = 0;
  let nextMs = 0;
  return {
    setLimit: (wanted: number): Promise<void> => {
      bytesPerSecond = wanted;
      nextMs = 0;
      return Promise.resolve();
    },
    pause: (): Promise<void> => Promise.resolve(),
    resume: (): Promise<void> => Promise.resolve(),
    before: async (bytes: number): Promise<void> => {
      await control.whenNotPaused();
      control.signal.throwIfAborted();
      if (bytesPerSecond === 0 || !limited) return;
      const nowMs = performance.now();
      const waitMs = Math.max(0, nextMs - nowMs);
      nextMs = Math.max(nowMs, nextMs) + (bytes * 1_000) / bytesPerSecond;
      await sleep(waitMs, undefined, { signal: control.signal });
    },
  };
}
