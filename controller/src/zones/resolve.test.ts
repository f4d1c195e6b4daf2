import assert from 'node:assert/strict';
import { inspect } from 'node:util';
import { Secret } from '@holdfast/common/secret.ts';
import { settingKeys } from '@holdfast/common/settings.ts';
import { SettingScope } from '@holdfast/proto/holdfast/v1/setting.ts';
import { booleanOf, describeSettings, integerOf, resolveSettings, secretOf, textOf } from './resolve.ts';

const { SETTING_SCOPE_REQUEST, SETTING_SCOPE_ZONE, SETTING_SCOPE_GLOBAL, SETTING_SCOPE_DEFAULT } =
  SettingScope;

describe('resolveSettings', () => {
  it('gives every default when nothing is set', () => {
    const settings = resolveSettings([]);
    assert.deepEqual([...settings.keys()], settingKeys);
    assert.equal(booleanOf(settings, 'nas.backup.compression.enabled'), false);
    assert.equal(booleanOf(settings, 'nas.backup.encryption.enabled'), false);
    assert.equal(booleanOf(settings, 'nas.backup.integrity.check'), false);
    assert.equal(integerOf(settings, 'nas.backup.bandwidth.limit.mbps'), 0n);
    assert.equal(secretOf(settings, 'nas.backup.encryption.passphrase').value.reveal(), '');
    assert.ok([...settings.values()].every((setting) => setting.scope === SETTING_SCOPE_DEFAULT));
  });

  it('prefers request to zone to global to default, key by key', () => {
    const settings = resolveSettings([
      { scope: SETTING_SCOPE_REQUEST, values: new Map([['nas.backup.bandwidth.limit.mbps', '1']]) },
      {
        scope: SETTING_SCOPE_ZONE,
        values: new Map([
          ['nas.backup.bandwidth.limit.mbps', '2'],
          ['nas.backup.quiesce', 'required'],
        ]),
      },
      {
        scope: SETTING_SCOPE_GLOBAL,
        values: new Map([
          ['nas.backup.bandwidth.limit.mbps', '3'],
          ['nas.backup.quiesce', 'off'],
          ['nas.backup.compression.enabled', 'true'],
        ]),
      },
    ]);
    const shown = Object.fromEntries(
      [...settings].map(([key, setting]) => [key, [setting.value, setting.scope]]),
    );
    assert.deepEqual(shown['nas.backup.bandwidth.limit.mbps'], ['1', SETTING_SCOPE_REQUEST]);
    assert.deepEqual(shown['nas.backup.quiesce'], ['required', SETTING_SCOPE_ZONE]);
    assert.deepEqual(shown['nas.backup.compression.enabled'], ['true', SETTING_SCOPE_GLOBAL]);
    assert.deepEqual(shown['nas.backup.integrity.check'], ['false', SETTING_SCOPE_DEFAULT]);
  });

  it('lets a value that equals the default win over a weaker scope', () => {
    const settings = resolveSettings([
      { scope: SETTING_SCOPE_ZONE, values: new Map([['nas.backup.compression.enabled', 'false']]) },
      { scope: SETTING_SCOPE_GLOBAL, values: new Map([['nas.backup.compression.enabled', 'true']]) },
    ]);
    assert.equal(booleanOf(settings, 'nas.backup.compression.enabled'), false);
  });

  it('never shows a secure value', () => {
    const settings = resolveSettings([
      {
        scope: SETTING_SCOPE_ZONE,
        values: new Map([['nas.backup.encryption.passphrase', new Secret('correct horse')]]),
      },
    ]);
    const shown = describeSettings(settings).find(({ key }) => key === 'nas.backup.encryption.passphrase');
    assert.equal(shown?.value, '');
    assert.equal(shown.hasValue, true);
    assert.equal(shown.scope, SETTING_SCOPE_ZONE);
    assert.throws(() => textOf(settings, 'nas.backup.encryption.passphrase'), TypeError);
    assert.doesNotMatch(inspect(settings, { depth: 9 }) + JSON.stringify([...settings]), /correct horse/);
  });
});
