import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { settingDefinitions, settingKeys, type SettingDefinition } from '@holdfast/common/settings.ts';
import { SettingType } from '@holdfast/proto/holdfast/v1/setting.ts';

const TYPES: Readonly<Partial<Record<SettingType, string>>> = {
  [SettingType.SETTING_TYPE_BOOLEAN]: 'Boolean',
  [SettingType.SETTING_TYPE_INTEGER]: 'Integer',
  [SettingType.SETTING_TYPE_STRING]: 'String',
  [SettingType.SETTING_TYPE_SECURE_STRING]: 'String, secure',
};

describe('docs/settings.md', () => {
  it('has a row for every setting with its type, default and allowed values, and for nothing else', async () => {
    const page = await readFile(path.resolve(import.meta.dirname, '../../docs/settings.md'), 'utf8');
    const rows = page
      .split('\n')
      .filter((line) => line.startsWith('| `nas.'))
      .map((line) => line.split('|').map((cell) => cell.trim().replaceAll('`', '')));
    assert.deepEqual(
      rows.map(([, key, type, defaultValue]) => [key, type, defaultValue]),
      settingKeys.map((key) => [
        key,
        TYPES[settingDefinitions[key].type],
        settingDefinitions[key].defaultValue,
      ]),
    );
    for (const [, key = '', , , meaning = ''] of rows) {
      const { values = [] }: SettingDefinition = settingDefinitions[key as keyof typeof settingDefinitions];
      for (const value of values) assert.ok(meaning.includes(value), `${key} has the value ${value}`);
    }
  });
});
