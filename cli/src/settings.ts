import { parseSetting } from '@holdfast/common/settings.ts';
import { usage } from './command-error.ts';
import { PASSPHRASE_KEY } from './passphrase.ts';

/**
 * Settings from `key=value` words. Checked here as the controller does, so that a typing error costs no connection.
 *
 * @throws CommandError USAGE for a word that is none, a key given twice, or a passphrase.
 * @throws HoldfastError SETTING_UNKNOWN, SETTING_INVALID
 */
export function parseAssignments(words: readonly string[]): Record<string, string> {
  const values: Record<string, string> = {};
  for (const word of words) {
    const at = word.indexOf('=');
    const key = at === -1 ? word : word.slice(0, at);
    if (key === PASSPHRASE_KEY) throw refusePassphrase();
    // The word may be a secret that ended up in the wrong place: it is not repeated.
    if (at === -1) throw usage('Settings are given as KEY=VALUE; one of the words has no "=".');
    const parsed = parseSetting(key, word.slice(at + 1));
    addSetting(values, parsed.key, parsed.value);
  }
  return values;
}

/** Adds a value that a flag stands for; refuses two different values for one key. */
export function addSetting(values: Record<string, string>, key: string, value: string): void {
  const parsed = parseSetting(key, value);
  if ((values[parsed.key] ?? parsed.value) !== parsed.value) {
    throw usage(`${key} is given twice, with different values.`);
  }
  values[parsed.key] = parsed.value;
}

function refusePassphrase(): Error {
  return usage(
    `${PASSPHRASE_KEY} is not taken from the command line, where other users of the machine can read it. ` +
      'Use --passphrase-file FILE (- is standard input), or --ask-passphrase on a terminal. ' +
      'If you just typed a real passphrase there, it is in your shell history.',
  );
}
