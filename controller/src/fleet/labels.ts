import { HoldfastError } from '@holdfast/common/errors.ts';

/** What operators say of a host, by key. */
export type Labels = Readonly<Record<string, string>>;

const KEY = /^[\w./-]{1,63}$/;
const MAX_VALUE_BYTES = 255;
/** A limit so that a list of hosts stays small. */
const MAX_LABELS = 64;

/**
 * Labels as given.
 *
 * @throws HoldfastError INVALID_REQUEST, which says what labels may look like
 */
export function parseLabels(labels: Labels): Labels {
  const entries = Object.entries(labels);
  if (entries.length > MAX_LABELS) {
    throw new HoldfastError('INVALID_REQUEST', `A host has at most ${MAX_LABELS} labels.`);
  }
  for (const [key, value] of entries) {
    parseLabelKey(key);
    const fits =
      value.isWellFormed() && Buffer.byteLength(value) <= MAX_VALUE_BYTES && !/[\0\n\r]/.test(value);
    if (fits) continue;
    throw new HoldfastError(
      'INVALID_REQUEST',
      `The value of label ${key} must be one line of at most ${MAX_VALUE_BYTES} bytes.`,
    );
  }
  return labels;
}

/** @throws HoldfastError INVALID_REQUEST */
export function parseLabelKey(key: string): string {
  if (KEY.test(key)) return key;
  throw new HoldfastError(
    'INVALID_REQUEST',
    `${JSON.stringify(key)} cannot be a label: labels have 1 to 63 letters (A-Z, a-z), digits, '-', '_', '.' and '/'.`,
  );
}

/** Whether labels have what a selector asks for: `key`, or `key=value`. */
export function hasLabel(labels: Labels, selector: string): boolean {
  const [key = '', ...value] = selector.split('=');
  if (!Object.hasOwn(labels, key)) return false;
  return value.length === 0 || labels[key] === value.join('=');
}
