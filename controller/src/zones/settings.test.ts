import assert from 'node:assert/strict';
import { SettingScope, type Setting } from '@holdfast/proto/holdfast/v1/setting.ts';
import { TEST_DEADLINE_MS, ask, refused, startLab, type Lab } from '../testing/lab.ts';
import { describeOnBothStores } from '../testing/stores.ts';

const PASSPHRASE_KEY = 'nas.backup.encryption.passphrase';
const LIMIT_KEY = 'nas.backup.bandwidth.limit.mbps';
const PASSPHRASE = 'a passphrase that stands nowhere';

describeOnBothStores('zones and their settings', function (kind) {
  this.timeout(TEST_DEADLINE_MS);
  let lab: Lab;
  beforeEach(async () => {
    lab = await startLab(kind);
    await createZone('z1');
    await createZone('z2');
  });
  afterEach(() => lab.close());

  const createZone = (name: string) => ask(lab.clients.zones.createZone.bind(lab.clients.zones), { name });
  const set = (zone: string, values: Record<string, string>, clear: string[] = []) =>
    ask(lab.clients.zones.setSettings.bind(lab.clients.zones), { zone, values, clear });
  const get = async (zone: string, key: string): Promise<Setting> => {
    const answer = await ask(lab.clients.zones.getSettings.bind(lab.clients.zones), { zone });
    const found = answer.settings.find((setting) => setting.key === key);
    assert.ok(found);
    return found;
  };

  it('lists zones by name and refuses bad and double names', async () => {
    const { zones } = await ask(lab.clients.zones.listZones.bind(lab.clients.zones), {});
    assert.deepEqual(
      zones.map((zone) => zone.name),
      ['z1', 'z2'],
    );
    await refused(createZone('z1'), 'ZONE_EXISTS');
    for (const name of ['', '..', 'a b', 'a"b', 'a,b', 'a\nb', 'zöne', 'a/b', 'x'.repeat(64), "';--"]) {
      await refused(createZone(name), 'NAME_INVALID');
    }
  });

  it('says from which scope a value comes', async () => {
    assert.equal((await get('z1', LIMIT_KEY)).scope, SettingScope.SETTING_SCOPE_DEFAULT);
    await set('', { [LIMIT_KEY]: '30' });
    await set('z1', { [LIMIT_KEY]: '040' });
    const own = await get('z1', LIMIT_KEY);
    assert.deepEqual([own.value, own.scope], ['40', SettingScope.SETTING_SCOPE_ZONE]);
    const other = await get('z2', LIMIT_KEY);
    assert.deepEqual([other.value, other.scope], ['30', SettingScope.SETTING_SCOPE_GLOBAL]);
    await set('z1', {}, [LIMIT_KEY]);
    assert.equal((await get('z1', LIMIT_KEY)).value, '30');
  });

  it('changes all settings of a request or none', async () => {
    await refused(
      set('z1', { [LIMIT_KEY]: '10', 'nas.backup.compression.enabled': 'maybe' }),
      'SETTING_INVALID',
    );
    await refused(set('z1', { [LIMIT_KEY]: '10', 'nas.backup.nothing': '1' }), 'SETTING_UNKNOWN');
    await refused(set('z1', { [LIMIT_KEY]: '-1' }), 'SETTING_INVALID');
    await refused(set('z1', { [LIMIT_KEY]: '10' }, ['nothing']), 'SETTING_UNKNOWN');
    await refused(set('z1', { [LIMIT_KEY]: '10' }, [LIMIT_KEY]), 'INVALID_REQUEST');
    await refused(set('nowhere', { [LIMIT_KEY]: '10' }), 'ZONE_NOT_FOUND');
    assert.equal((await get('z1', LIMIT_KEY)).scope, SettingScope.SETTING_SCOPE_DEFAULT);
  });

  it('never gives a passphrase away, by answer or by file', async () => {
    const { settings } = await set('z1', { [PASSPHRASE_KEY]: PASSPHRASE });
    assert.ok(!settings.some((setting) => setting.value.includes(PASSPHRASE)));
    const shown = await get('z1', PASSPHRASE_KEY);
    assert.equal(shown.value, '');
    assert.equal(shown.hasValue, true);
    assert.equal((await get('z2', PASSPHRASE_KEY)).hasValue, false);
    const error = await refused(set('z1', { [PASSPHRASE_KEY]: `${PASSPHRASE}\n` }), 'SETTING_INVALID');
    assert.ok(!error.message.includes(PASSPHRASE));
    assert.ok(!(await lab.state.dump()).includes(PASSPHRASE));
  });
});
