import { HoldfastError } from '@holdfast/common/errors.ts';

const NAME = /^[\w.-]{1,63}$/;

/**
 * The name of a zone, host or repository, as given.
 *
 * @throws HoldfastError NAME_INVALID, which says what names may look like.
 */
export function parseName(what: 'zone' | 'host' | 'repository', name: string): string {
  // Dots alone would be folders where a name becomes part of a path.
  if (NAME.test(name) && !/^\.+$/.test(name)) return name;
  throw new HoldfastError(
    'NAME_INVALID',
    name === ''
      ? `The name of the ${what} is missing.`
      : `${JSON.stringify(name)} cannot be the name of a ${what}: names have 1 to 63 letters (A-Z, a-z), digits, '-', '_' and '.'.`,
    { metadata: { what } },
  );
}
