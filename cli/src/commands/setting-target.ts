import { usage } from '../command-error.ts';

/** Splits the words of `zone set` and `zone get`: the first names the zone, unless the scope is global. */
export function settingTarget(
  given: readonly (string | undefined)[],
  global: boolean,
): { readonly zone: string; readonly rest: readonly string[] } {
  const words = given.filter((word) => word !== undefined);
  if (global) return { zone: '', rest: words };
  const [zone, ...rest] = words;
  // Not repeated: what stands there may be a secret in the wrong place.
  if (zone === undefined || zone === '' || zone.includes('=')) {
    throw usage('Name the zone first, or give --global for the settings of all zones.');
  }
  return { zone, rest };
}
