import { HoldfastError } from '@holdfast/common/errors.ts';
import { Stage } from '@holdfast/proto/holdfast/v1/event.ts';
import type { TakeBackupStart } from '@holdfast/proto/holdfast/agent/v1/agent.ts';
import { chunkBytesFor, WHOLE } from '../digests/chunks.ts';
import { contentKey } from '../digests/chunkDigest.ts';
import { UNREADABLE } from '../digests/digestList.ts';
import type { JobEvent } from '../jobs/eventLog.ts';
import { partialFolder } from '../repository/layout.ts';
import type { Transport } from '../transport/transport.ts';
import type { JobContext, StageEnd } from './context.ts';
import { finishImages } from './finish.ts';
import type { Prepared } from './prepare.ts';
import { imagesOf, readImages } from './readImages.ts';
import { readDisks, startReader } from './readDisks.ts';
import { readFiles } from './readFiles.ts';

/** All digests of one disk: of its image file, or of its content. */
export interface DiskDigests {
  readonly chunkBytes: number;
  readonly digests: readonly string[];
  /** file, snapshot or image, as in the manifest. */
  readonly origin: string;
}

/** The digests of a backup, by target name; undefined where none are made. */
export interface BackupDigests {
  readonly stored: ReadonlyMap<string, DiskDigests> | undefined;
  readonly content: ReadonlyMap<string, DiskDigests> | undefined;
}

export const NO_DIGESTS: BackupDigests = { stored: undefined, content: undefined };

/** Which digests a backup gets: what was asked for, and what its check needs. */
export function digestsWanted({ options, cloudstack }: TakeBackupStart): 'none' | 'stored' | 'content' {
  // Its layout has no manifest that could say so.
  if (cloudstack !== undefined) return 'none';
  const level = options?.integrityCheck === true ? options.integrityLevel : '';
  if (options?.digests === 'content' || level === 'content' || level === 'source') return 'content';
  return options?.digests === 'stored' || level === 'stored' ? 'stored' : 'none';
}

/** Ends the copy, and digests what was written, and what was to be written, as far as that is wanted. */
export async function* digest(
  context: JobContext,
  prepared: Prepared,
  transport: Transport,
  wanted: 'stored' | 'content',
): AsyncGenerator<
  JobEvent,
  StageEnd<{ readonly storedBytes: ReadonlyMap<string, number>; readonly digests: BackupDigests }>,
  undefined
> {
  const stage = Stage.STAGE_DIGEST;
  const key = prepared.key && contentKey(prepared.key);
  const sized = prepared.disks.map(({ disk, virtualSizeBytes }) => ({
    target: disk.target,
    bytes: virtualSizeBytes,
    chunkBytes: chunkBytesFor(virtualSizeBytes),
  }));
  const snapshot = wanted === 'content' ? transport.snapshot : undefined;
  const fromSnapshot =
    snapshot &&
    (yield* snapshot.read((sources, watch) =>
      readDisks(
        context,
        prepared.daemon,
        sized.map((disk) => {
          const source = sources.find(({ target }) => target === disk.target);
          if (source === undefined) throw new Error(`disk ${disk.target} has no source`);
          const { sourceNode: node, extents } = source;
          return { ...disk, nodes: [{ node }], extents, reader: startReader(context, disk.target, 1) };
        }),
        { stage, sample: WHOLE, key, watch },
      ),
    ));
  const storedBytes = await finishImages(prepared, transport);

  const files = prepared.disks.map(({ disk: { target }, file }) => {
    const bytes = storedBytes.get(target) ?? 0;
    return {
      target,
      path: `${partialFolder(prepared.folder)}/${file}`,
      bytes,
      chunkBytes: chunkBytesFor(bytes),
    };
  });
  const stored = yield* readFiles(context, prepared.repository, files, {
    ...{ stage, sample: WHOLE, limited: false },
  });
  const content =
    fromSnapshot ??
    (wanted === 'content'
      ? yield* readImages(context, prepared.repository, imagesOf(prepared, storedBytes), {
          stage,
          sample: WHOLE,
        })
      : undefined);
  for (const [target, { digests }] of content ?? []) {
    if (digests.includes(UNREADABLE)) {
      throw new HoldfastError('QEMU_FAILED', `Disk ${target} could not be read for its digests.`, {
        metadata: { disk: target },
      });
    }
  }
  const origin = fromSnapshot === undefined ? 'image' : 'snapshot';
  return {
    result: {
      storedBytes,
      digests: {
        stored: new Map(
          files.map(({ target, chunkBytes }) => [
            target,
            { chunkBytes, digests: stored.get(target)?.digests ?? [], origin: 'file' },
          ]),
        ),
        content:
          content &&
          new Map(
            sized.map(({ target, chunkBytes }) => [
              target,
              { chunkBytes, digests: content.get(target)?.digests ?? [], origin },
            ]),
          ),
      },
    },
  };
}
