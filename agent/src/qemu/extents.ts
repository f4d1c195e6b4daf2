import { HoldfastError } from '@holdfast/common/errors.ts';
import type { Secret } from '@holdfast/common/secret.ts';
import { run } from '../process/run.ts';
import { withSecretPipe } from '../process/secretPipe.ts';

const MINUTE = 60_000;

/** A run of a disk that holds data, in bytes. What lies between the runs is holes. */
export interface Extent {
  readonly start: number;
  readonly length: number;
}

/** A disk's size as the guest sees it and where its data is. */
export interface DiskMap {
  readonly virtualSizeBytes: number;
  readonly extents: readonly Extent[];
}

interface MapEntry extends Extent {
  readonly zero: boolean;
}

/** QEMU found no readable image in a file: it is damaged, unless the storage has a fault. */
export class UnreadableImage extends HoldfastError {
  /** @param target of the disk, where it is known */
  constructor(why: string, target = '') {
    super('QEMU_FAILED', `The image cannot be read: ${why}`, {
      metadata: target === '' ? {} : { disk: target },
    });
  }
}

/** The map of an NBD export, as the server reports it (`base:allocation`). */
export async function mapNbdExport(
  socket: string,
  exportName: string,
  signal: AbortSignal,
): Promise<DiskMap> {
  const uri = `nbd+unix:///${encodeURIComponent(exportName)}?socket=${encodeURIComponent(socket)}`;
  const result = await run('nbdinfo', ['--map', '--json', uri], { deadlineMs: 30 * MINUTE, signal });
  if (result.exitCode !== 0) {
    throw new HoldfastError(
      'QEMU_FAILED',
      `nbdinfo could not map export ${exportName}: ${result.stderr.trim()}`,
    );
  }
  const entries = JSON.parse(result.stdout) as { offset: number; length: number; type: number }[];
  // Bit 1 is NBD_STATE_ZERO: what reads as zeroes costs nothing, whether it is allocated or not.
  return diskMap(
    entries.map(({ offset, length, type }) => ({ start: offset, length, zero: (type & 2) !== 0 })),
  );
}

/** Secrets in base64, by the ids under which QEMU shall know them. */
export type SourceSecrets = ReadonlyMap<string, Secret>;

/**
 * The map of an image, given as blockdev options that name these secrets.
 *
 * @throws UnreadableImage
 */
export async function mapImage(
  options: object,
  secrets: SourceSecrets,
  runtimeDirectory: string,
  signal: AbortSignal,
): Promise<DiskMap> {
  const args = ['map', '--output', 'json'];
  const result = await withSecretArgs(runtimeDirectory, [...secrets], (secretArgs) =>
    run('qemu-img', [...args, ...secretArgs, `json:${JSON.stringify(options)}`], {
      deadlineMs: 30 * MINUTE,
      signal,
    }),
  );
  if (result.exitCode !== 0) {
    throw new UnreadableImage(result.stderr.trim());
  }
  return diskMap(JSON.parse(result.stdout) as MapEntry[]);
}

/** Gives a program of QEMU its secrets, each through a pipe of its own. */
async function withSecretArgs<Result>(
  directory: string,
  [first, ...rest]: readonly (readonly [string, Secret])[],
  use: (args: readonly string[]) => Promise<Result>,
): Promise<Result> {
  if (first === undefined) return use([]);
  const [id, secret] = first;
  return withSecretPipe(directory, secret, (path) =>
    withSecretArgs(directory, rest, (args) =>
      use(['--object', `secret,id=${id},format=base64,file=${path}`, ...args]),
    ),
  );
}

function diskMap(entries: readonly MapEntry[]): DiskMap {
  const last = entries.at(-1);
  return {
    virtualSizeBytes: last === undefined ? 0 : last.start + last.length,
    extents: entries.filter((entry) => !entry.zero).map(({ start, length }) => ({ start, length })),
  };
}

export function totalBytes(extents: readonly Extent[]): number {
  return extents.reduce((sum, extent) => sum + extent.length, 0);
}

/** How much of the data lies before an address. */
export function bytesBefore(extents: readonly Extent[], address: number): number {
  return extents.reduce((sum, { start, length }) => sum + Math.max(0, Math.min(length, address - start)), 0);
}
