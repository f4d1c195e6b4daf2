import { Secret } from '@holdfast/common/secret.ts';
import {
  isShared,
  settingDefinitions,
  settingKeys,
  type SettingDefinition,
  type SettingKey,
} from '@holdfast/common/settings.ts';
import {
  SettingScope,
  SettingType,
  type Setting,
  type SettingDefinition as SettingDefinitionMessage,
} from '@holdfast/proto/holdfast/v1/setting.ts';

/** A value in the form in which it is stored, a secure one wrapped. */
export type SettingValue = string | Secret;

/** The values that are set at one scope, and when they were, where that is known. */
export interface SettingLayer {
  readonly scope: SettingScope;
  readonly values: ReadonlyMap<SettingKey, SettingValue>;
  readonly changeTimes?: ReadonlyMap<SettingKey, Date>;
}

/** A value and where it comes from. */
export interface ResolvedSetting {
  readonly value: SettingValue;
  readonly scope: SettingScope;
  readonly changeTime: Date | undefined;
}

/** Every setting with its value. */
export type ResolvedSettings = ReadonlyMap<SettingKey, ResolvedSetting>;

/** Each setting's value from the first layer that has one, or its default. Layers come strongest first. */
export function resolveSettings(layers: readonly SettingLayer[]): ResolvedSettings {
  return new Map(settingKeys.map((key) => [key, resolveSetting(key, layers)]));
}

function resolveSetting(key: SettingKey, layers: readonly SettingLayer[]): ResolvedSetting {
  for (const layer of layers) {
    const value = layer.values.get(key);
    if (value !== undefined) return { value, scope: layer.scope, changeTime: layer.changeTimes?.get(key) };
  }
  return {
    value: asValue(key, settingDefinitions[key].defaultValue),
    scope: SettingScope.SETTING_SCOPE_DEFAULT,
    changeTime: undefined,
  };
}

/** Wraps the value of a secure setting. */
export function asValue(key: SettingKey, text: string): SettingValue {
  return isSecure(key) ? new Secret(text) : text;
}

/** Whether a setting can be set and never read again. */
export function isSecure(key: SettingKey): boolean {
  return settingDefinitions[key].type === SettingType.SETTING_TYPE_SECURE_STRING;
}

/** The text of a setting that is not secure. */
export function textOf(settings: ResolvedSettings, key: SettingKey): string {
  const value = settings.get(key)?.value;
  if (typeof value !== 'string') throw new TypeError(`${key} has no plain value`);
  return value;
}

export function booleanOf(settings: ResolvedSettings, key: SettingKey): boolean {
  return textOf(settings, key) === 'true';
}

export function integerOf(settings: ResolvedSettings, key: SettingKey): bigint {
  return BigInt(textOf(settings, key));
}

/** A secure setting with its scope. */
export function secretOf(
  settings: ResolvedSettings,
  key: SettingKey,
): { readonly value: Secret; readonly scope: SettingScope } {
  const resolved = settings.get(key);
  if (!(resolved?.value instanceof Secret)) throw new TypeError(`${key} is not secure`);
  return { value: resolved.value, scope: resolved.scope };
}

/** The settings as the API shows them: of a secure one, only whether there is a value. */
export function describeSettings(settings: ResolvedSettings): Setting[] {
  return [...settings].map(([key, { value, scope, changeTime }]) => {
    const definition: SettingDefinition = settingDefinitions[key];
    return {
      key,
      type: definition.type,
      value: typeof value === 'string' ? value : '',
      scope,
      hasValue: (typeof value === 'string' ? value : value.reveal()) !== '',
      description: definition.description,
      changeTime,
    };
  });
}

/** Every setting as the API shows it before anyone sets it. */
export function describeDefinitions(): SettingDefinitionMessage[] {
  return settingKeys.map((key) => {
    const { type, defaultValue, description, values, range }: SettingDefinition = settingDefinitions[key];
    return {
      key,
      type,
      defaultValue,
      description,
      scopes: [
        SettingScope.SETTING_SCOPE_GLOBAL,
        SettingScope.SETTING_SCOPE_ZONE,
        ...(isShared(key) ? [] : [SettingScope.SETTING_SCOPE_REQUEST]),
      ],
      allowedValues: [...(values ?? (type === SettingType.SETTING_TYPE_BOOLEAN ? ['true', 'false'] : []))],
      allowedRange: range && { min: BigInt(range[0]), max: BigInt(range[1]) },
      secure: isSecure(key),
    };
  });
}
