import { Setting, SettingScope, SettingType } from '@holdfast/proto/holdfast/v1/setting.ts';
import { Zone } from '@holdfast/proto/holdfast/v1/zone.ts';
import { HoldfastError } from '@holdfast/common/errors.ts';
import type { Command } from 'commander';
import { withSession, type Context } from '../context.ts';
import { formatTime } from '../format/duration.ts';
import { table } from '../format/table.ts';
import { safe } from '../format/text.ts';
import { printList } from '../print.ts';
import { call } from '../session.ts';
import { settingTarget } from './setting-target.ts';
import { addZoneSet } from './zone-set.ts';

/** Adds `zone` with `create`, `list`, `set` and `get`. */
export function addZone(program: Command, context: Context): void {
  const zone = program.command('zone').description('Zones and their settings.');
  addCreate(zone, context);
  addList(zone, context);
  addZoneSet(zone, context);
  addGet(zone, context);
}

function addCreate(parent: Command, context: Context): void {
  const command = parent
    .command('create')
    .description('Makes a zone.')
    .argument('<name>', 'the name of the zone')
    .action((name: string) =>
      withSession(context, command, async ({ session, print }) => {
        const { zone } = await call(session, session.zones.createZone.bind(session.zones), { name });
        print(zone === undefined ? { name } : Zone.toJSON(zone), () => [`Zone ${safe(name)} was made.`]);
      }),
    );
}

function addList(parent: Command, context: Context): void {
  const command = parent
    .command('list')
    .description('Lists the zones.')
    .action(() =>
      withSession(context, command, async (running) => {
        const { session } = running;
        const { zones } = await call(session, session.zones.listZones.bind(session.zones), {});
        printList(running, Zone, zones, (items) =>
          table(
            [{ title: 'ZONE' }, { title: 'MADE' }],
            items.map((zone) => [zone.name, formatTime(zone.createTime)]),
          ),
        );
      }),
    );
}

function addGet(parent: Command, context: Context): void {
  const command = parent
    .command('get')
    .description('Shows the settings as they hold in a zone, each with the scope from which it comes.')
    .argument('[zone]', 'the zone, unless --global is given')
    .argument('[key]', 'only this setting')
    .option('--global', 'the settings for all zones')
    .action((first: string | undefined, second: string | undefined, options: { readonly global?: true }) =>
      withSession(context, command, async (running) => {
        const { zone, rest } = settingTarget([first, second], options.global === true);
        const { session } = running;
        const { settings } = await call(session, session.zones.getSettings.bind(session.zones), { zone });
        printList(running, Setting, only(settings, rest[0]), settingTable);
      }),
    );
}

/** The settings in a table; a secure one says only whether there is one. */
export function settingTable(settings: readonly Setting[]): string[] {
  return table(
    [{ title: 'KEY' }, { title: 'VALUE' }, { title: 'SCOPE' }],
    settings.map((setting) => [setting.key, shown(setting), scopes[setting.scope]]),
  );
}

function only(settings: readonly Setting[], key: string | undefined): readonly Setting[] {
  if (key === undefined) return settings;
  const found = settings.filter((setting) => setting.key === key);
  if (found.length > 0) return found;
  throw new HoldfastError('SETTING_UNKNOWN', `There is no setting ${JSON.stringify(key)}.`);
}

function shown({ type, value, hasValue }: Setting): string {
  if (type === SettingType.SETTING_TYPE_SECURE_STRING) return hasValue ? '(set)' : '(not set)';
  return value === '' ? '(empty)' : value;
}

const scopes: Readonly<Record<SettingScope, string>> = {
  [SettingScope.SETTING_SCOPE_UNSPECIFIED]: '-',
  [SettingScope.SETTING_SCOPE_DEFAULT]: 'default',
  [SettingScope.SETTING_SCOPE_GLOBAL]: 'global',
  [SettingScope.SETTING_SCOPE_ZONE]: 'zone',
  [SettingScope.SETTING_SCOPE_REQUEST]: 'request',
  [SettingScope.UNRECOGNIZED]: '?',
};
