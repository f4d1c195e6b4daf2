import type { Warning } from '@holdfast/proto/holdfast/v1/event.ts';

/** The figures of a backup by which it is compared with those before it. */
export interface Measures {
  /** Bytes of the sources that were not holes. */
  readonly dataBytes: number;
  /** Bytes of its image files. */
  readonly storedBytes: number;
}

/** So many backups must be there before anything is said of the next. */
const MIN_HISTORY = 5;
/** Older ones say little of what is usual now. */
export const MAX_HISTORY = 15;
/** Makes the median of absolute deviations an estimate of a standard deviation. */
const NORMAL = 1.4826;
/** So many standard deviations are usual still. */
const USUAL_DEVIATIONS = 6;
const MIB = 1024 * 1024;

/**
 * What about a backup leaves the range of those of the same domain and kind before it. Compared are logarithms, so that
 * growing by a half is the same whatever the size, with the trend taken out: by the median of the values and of their
 * steps, which single outliers do not move. A backup that is as unusual as the one before it is not told of again.
 *
 * @param history oldest first
 * @param tolerancePercent by how much a size may always differ from what was to be expected; a ratio by half of that
 */
export function implausibilities(
  history: readonly Measures[],
  next: Measures,
  { compressed, tolerancePercent }: { readonly compressed: boolean; readonly tolerancePercent: number },
): Warning[] {
  const recent = history.slice(-MAX_HISTORY);
  if (recent.length < MIN_HISTORY) return [];
  const tolerance = tolerancePercent / 100;
  const outlier = (of: (measures: Measures) => number, allowed: number): Outlier | undefined =>
    findOutlier(recent.map(of), of(next), allowed);

  const size = outlier(sizeOf, tolerance);
  const ratio = compressed ? outlier(ratioOf, tolerance / 2) : undefined;
  // Nothing new when one of the others says it already.
  const stored = size === undefined && ratio === undefined ? outlier(storedOf, tolerance) : undefined;
  const warnings: Warning[] = [];
  const warn = (reason: string, message: string): void => {
    warnings.push({ reason, message, target: '' });
  };
  if (size !== undefined) {
    warn(
      'IMPLAUSIBLE_SIZE',
      `The backup has ${mib(size.value)} of data, and ${mib(size.expected)} were to be expected after the ` +
        `${recent.length} before it. Something was ${size.value > size.expected ? 'added: a disk, an import, or malware that writes encrypted copies' : 'removed: a disk, or the data of the guest'}. Look at the guest before older backups are deleted.`,
    );
  }
  if (ratio !== undefined) {
    const [is, was] = [ratio.value, ratio.expected].map((each) => each.toFixed(2));
    warn(
      'IMPLAUSIBLE_RATIO',
      `Each byte of data takes ${is} bytes, and ${was} were to be expected after the ${recent.length} backups before it. ` +
        (ratio.value > ratio.expected
          ? 'Data that cannot be compressed has taken the place of other: media, archives, or what malware has encrypted. '
          : 'Data that can be compressed well, such as zeroes, has taken the place of other. ') +
        'Look at the guest before older backups are deleted.',
    );
  }
  if (stored !== undefined) {
    warn(
      'IMPLAUSIBLE_CHANGE',
      `The backup takes ${mib(stored.value)}, and ${mib(stored.expected)} were to be expected after the ` +
        `${recent.length} before it. Look at the guest before older backups are deleted.`,
    );
  }
  return warnings;
}

interface Outlier {
  readonly value: number;
  readonly expected: number;
}

function findOutlier(values: readonly number[], value: number, tolerance: number): Outlier | undefined {
  const logs = values.map(Math.log);
  const log = Math.log(value);
  const steps = logs.slice(1).map((each, index) => each - (logs[index] ?? each));
  const trend = median(steps);
  const projected = logs.map((each, index) => each + trend * (logs.length - index));
  const expected = median(projected);
  const deviation = NORMAL * median(projected.map((each) => Math.abs(each - expected)));
  const allowed = Math.max(Math.log1p(tolerance), USUAL_DEVIATIONS * deviation);
  const last = logs.at(-1) ?? expected;
  const isUnusual = Math.abs(log - expected) > allowed && Math.abs(log - last) > Math.log1p(tolerance);
  return isUnusual ? { value, expected: Math.exp(expected) } : undefined;
}

function median(values: readonly number[]): number {
  const sorted = values.toSorted((one, other) => one - other);
  const middle = sorted.length / 2;
  const [low = 0, high = 0] = [sorted[Math.ceil(middle) - 1], sorted[Math.floor(middle)]];
  return (low + high) / 2;
}

/** Sizes below a MiB are all the same: an empty disk that gets its first file is no event. */
function sizeOf({ dataBytes }: Measures): number {
  return Math.max(dataBytes, MIB);
}

function storedOf({ storedBytes }: Measures): number {
  return Math.max(storedBytes, MIB);
}

function ratioOf(measures: Measures): number {
  return storedOf(measures) / sizeOf(measures);
}

function mib(bytes: number): string {
  return `${(bytes / MIB).toFixed(1)} MiB`;
}
