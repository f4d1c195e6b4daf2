import { MAX_BANDWIDTH_MIBPS } from '@holdfast/common/settings.ts';
import { InvalidArgumentError } from 'commander';

/** Reads a limit in MiB/s; 0 is unlimited. */
export function parseMibps(text: string): bigint {
  if (!/^\d{1,15}$/.test(text) || Number(text) > MAX_BANDWIDTH_MIBPS) {
    throw new InvalidArgumentError(
      `Must be a whole number of MiB/s from 0 (unlimited) to ${MAX_BANDWIDTH_MIBPS}.`,
    );
  }
  return BigInt(text);
}

/** Reads a part of the whole, with or without its sign. */
export function parsePercent(text: string): number {
  const percent = /^\d{1,3}%?$/.test(text) ? parseInt(text, 10) : 0;
  if (percent < 1 || percent > 100) throw new InvalidArgumentError('Must be a part from 1% to 100%.');
  return percent;
}

/** Reads the number of an event. */
export function parseSequence(text: string): bigint {
  if (!/^\d{1,18}$/.test(text)) throw new InvalidArgumentError('Must be a whole number, 0 or more.');
  return BigInt(text);
}

/** Reads a UUID in its usual form. */
export function parseUuid(text: string): string {
  if (!/^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i.test(text)) {
    throw new InvalidArgumentError('Must be a UUID.');
  }
  return text.toLowerCase();
}

/** Collects an option that may be repeated. (Commander's variadic options would eat the arguments after them.) */
export function collect(value: string, before: readonly string[] | undefined): readonly string[] {
  return [...(before ?? []), value];
}
