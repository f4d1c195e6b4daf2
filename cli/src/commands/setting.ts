import {
  SettingChange,
  SettingDefinition,
  type SettingType,
  settingTypeToJSON,
} from '@holdfast/proto/holdfast/v1/setting.ts';
import type { Command } from 'commander';
import { withSession, type Context } from '../context.ts';
import { formatTime } from '../format/duration.ts';
import { table } from '../format/table.ts';
import { pages } from '../pages.ts';
import { printList } from '../print.ts';
import { call } from '../session.ts';

interface ChangesOptions {
  readonly zone?: string;
  readonly global?: true;
  readonly key?: string;
}

/** Adds `setting` with `list` and `changes`. */
export function addSetting(program: Command, context: Context): void {
  const setting = program
    .command('setting')
    .description(
      'What settings there are, and who changed them; `zone set` and `zone get` change and show them.',
    );
  addList(setting, context);
  addChanges(setting, context);
}

function addList(parent: Command, context: Context): void {
  const command = parent
    .command('list')
    .description('Lists every setting with its type, default, allowed values and meaning.')
    .action(() =>
      withSession(context, command, async (running) => {
        const { session } = running;
        const list = session.zones.listSettingDefinitions.bind(session.zones);
        const { definitions } = await call(session, list, {});
        printList(running, SettingDefinition, definitions, definitionTable);
      }),
    );
}

function addChanges(parent: Command, context: Context): void {
  const command = parent
    .command('changes')
    .description('Lists who changed which settings, newest first.')
    .option('--zone <zone>', 'only those of this zone')
    .option('--global', 'only those of the settings for all zones')
    .option('--key <key>', 'only those of this setting')
    .action((options: ChangesOptions) =>
      withSession(context, command, async (running) => {
        const { session } = running;
        const list = session.zones.listSettingChanges.bind(session.zones);
        const changes: SettingChange[] = [];
        for await (const page of pages((pageToken) =>
          call(session, list, {
            zone: options.zone ?? '',
            globalOnly: options.global ?? false,
            key: options.key ?? '',
            pageSize: 0,
            pageToken,
          }),
        )) {
          changes.push(...page.changes);
        }
        printList(running, SettingChange, changes, changeTable);
      }),
    );
}

function definitionTable(definitions: readonly SettingDefinition[]): string[] {
  return table(
    [{ title: 'KEY' }, { title: 'TYPE' }, { title: 'DEFAULT' }, { title: 'ALLOWED' }, { title: 'MEANING' }],
    definitions.map((definition) => [
      definition.key,
      typeInWords(definition.type),
      definition.defaultValue === '' ? '(empty)' : definition.defaultValue,
      allowed(definition),
      definition.description,
    ]),
  );
}

function changeTable(changes: readonly SettingChange[]): string[] {
  return table(
    [
      { title: 'TIME' },
      { title: 'ZONE' },
      { title: 'KEY' },
      { title: 'CHANGE' },
      { title: 'BY' },
      { title: 'REQUEST' },
    ],
    changes.map((change) => [
      formatTime(change.time),
      change.zone === '' ? '(all)' : change.zone,
      change.key,
      changeInWords(change),
      change.caller,
      change.correlationId,
    ]),
  );
}

/** `SETTING_TYPE_SECURE_STRING` in words: `secure string`. */
function typeInWords(type: SettingType): string {
  return settingTypeToJSON(type).replace('SETTING_TYPE_', '').replaceAll('_', ' ').toLowerCase();
}

function allowed({ allowedValues, allowedRange }: SettingDefinition): string {
  if (allowedRange !== undefined) return `${allowedRange.min} to ${allowedRange.max}`;
  return allowedValues.length === 0 ? 'any' : allowedValues.join(', ');
}

/** A secure value is in neither form. */
function changeInWords({ unset, oldValue, newValue }: SettingChange): string {
  if (unset) return oldValue === '' ? 'unset' : `unset (was ${oldValue})`;
  if (newValue === '') return 'set';
  return oldValue === '' ? `set to ${newValue}` : `${oldValue} -> ${newValue}`;
}
