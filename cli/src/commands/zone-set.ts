import { isSettingKey } from '@holdfast/common/settings.ts';
import { Setting } from '@holdfast/proto/holdfast/v1/setting.ts';
import type { Command } from 'commander';
import { usage } from '../command-error.ts';
import { withSession, type Context } from '../context.ts';
import { collect } from '../option-values.ts';
import {
  PASSPHRASE_KEY,
  readPassphrase,
  withPassphraseOptions,
  type PassphraseOptions,
} from '../passphrase.ts';
import { printList } from '../print.ts';
import { call } from '../session.ts';
import { parseAssignments } from '../settings.ts';
import { settingTarget } from './setting-target.ts';
import { settingTable } from './zone.ts';

interface SetOptions extends PassphraseOptions {
  readonly global?: true;
  readonly unset?: readonly string[];
}

/** Adds `zone set`: sets and clears settings, all or none. */
export function addZoneSet(parent: Command, context: Context): void {
  const command = parent
    .command('set')
    .description('Sets settings of a zone, or of all zones. All of them are changed or none.')
    .argument('[zone]', 'the zone, unless --global is given')
    .argument('[key=value...]', 'the new values')
    .option('--global', 'set them for all zones')
    .option('--unset <key>', 'take the value of this key away; may be repeated', collect);
  withPassphraseOptions(command, `sets ${PASSPHRASE_KEY}`).action(
    (first: string | undefined, others: readonly string[], options: SetOptions) =>
      withSession(context, command, async (running) => {
        const { zone, rest } = settingTarget([first, ...others], options.global === true);
        const values = parseAssignments(rest);
        const clear = unsetKeys(options.unset ?? [], values);
        const passphrase = await readPassphrase(context.terminal, options, true);
        if (passphrase !== undefined) values[PASSPHRASE_KEY] = passphrase.reveal();
        if (Object.keys(values).length + clear.length === 0) {
          throw usage('Nothing to set: give KEY=VALUE, --unset KEY, --passphrase-file or --ask-passphrase.');
        }
        const { session } = running;
        const { settings } = await call(session, session.zones.setSettings.bind(session.zones), {
          zone,
          values,
          clear,
        });
        printList(running, Setting, settings, settingTable);
      }),
  );
}

function unsetKeys(keys: readonly string[], values: Readonly<Record<string, string>>): string[] {
  for (const key of keys) {
    if (!isSettingKey(key)) throw usage(`There is no setting ${JSON.stringify(key)}.`);
    if (Object.hasOwn(values, key)) throw usage(`${key} cannot be set and unset at once.`);
  }
  return [...keys];
}
