import { splitOption } from '@holdfast/common/mountOptions.ts';

/** What every repository is mounted with: nothing on a NAS may be run, be a device, or change who runs it. */
export const SAFE_OPTIONS: readonly string[] = ['rw', 'nosuid', 'nodev', 'noexec', 'noatime'];

/** Options of which one takes the place of another. */
const ALTERNATIVES: readonly (readonly string[])[] = [
  ['hard', 'soft', 'softerr'],
  ['vers', 'nfsvers'],
  ['noatime', 'relatime'],
  ['brl', 'nobrl'],
];

/** The defaults, but for those of which the given options say something else, and then the given ones. */
export function withDefaults(defaults: readonly string[], given: readonly string[]): readonly string[] {
  const said = new Set(given.flatMap((option) => alternatives(splitOption(option)[0])));
  return [...defaults.filter((option) => !said.has(splitOption(option)[0])), ...given];
}

function alternatives(name: string): readonly string[] {
  return ALTERNATIVES.find((names) => names.includes(name)) ?? [name];
}
