import assert from 'node:assert/strict';
import { inspect } from 'node:util';
import { settingKeys } from '@holdfast/common/settings.ts';
import { SettingScope, SettingType, type Setting } from '@holdfast/proto/holdfast/v1/setting.ts';
import { ListSettingChangesRequest } from '@holdfast/proto/holdfast/v1/zone.ts';
import { TEST_DEADLINE_MS, ask, refused, startLab, type Lab, takeBackup } from '../testing/lab.ts';
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

  it('describes every setting', async () => {
    const { zones } = lab.clients;
    const { definitions } = await ask(zones.listSettingDefinitions.bind(zones), {});
    assert.deepEqual(
      definitions.map(({ key }) => key),
      settingKeys,
    );
    const limit = definitions.find(({ key }) => key === LIMIT_KEY);
    assert.deepEqual(
      [limit?.type, limit?.defaultValue, limit?.allowedRange, limit?.secure],
      [SettingType.SETTING_TYPE_INTEGER, '0', { min: 0n, max: 1_048_576n }, false],
    );
    const passphrase = definitions.find(({ key }) => key === PASSPHRASE_KEY);
    assert.equal(passphrase?.secure, true);
    assert.equal(passphrase.scopes.length, 3);
    for (const { key, allowedValues, allowedRange, defaultValue, description } of definitions) {
      assert.ok(description !== '', key);
      assert.ok(allowedValues.length === 0 || allowedValues.includes(defaultValue), key);
      // What is said to be allowed is taken, and nothing beside it.
      for (const value of allowedValues) await set('z1', { [key]: value });
      if (allowedRange === undefined) continue;
      await set('z1', { [key]: String(allowedRange.min) });
      await set('z1', { [key]: String(allowedRange.max) });
      await refused(set('z1', { [key]: String(allowedRange.max + 1n) }), 'SETTING_INVALID');
      await refused(set('z1', { [key]: String(allowedRange.min - 1n) }), 'SETTING_INVALID');
    }
  });

  it('says when a value was set, a secure one too', async () => {
    const before = Date.now();
    assert.equal((await get('z1', PASSPHRASE_KEY)).changeTime, undefined);
    await set('', { [PASSPHRASE_KEY]: PASSPHRASE });
    const shown = await get('z1', PASSPHRASE_KEY);
    assert.ok(shown.changeTime && shown.changeTime.getTime() >= before);
    assert.equal(shown.scope, SettingScope.SETTING_SCOPE_GLOBAL);
    // The same again is no change.
    await set('', { [PASSPHRASE_KEY]: PASSPHRASE });
    assert.deepEqual((await get('z1', PASSPHRASE_KEY)).changeTime, shown.changeTime);
  });

  it('remembers who changed what, in pages, and no passphrase', async () => {
    const changes = (query: Partial<ListSettingChangesRequest> = {}) =>
      ask(
        lab.clients.zones.listSettingChanges.bind(lab.clients.zones),
        ListSettingChangesRequest.fromPartial(query),
      );
    await set('z1', { [LIMIT_KEY]: '10' });
    await set('z1', { [LIMIT_KEY]: '20', [PASSPHRASE_KEY]: PASSPHRASE });
    await set('', { [LIMIT_KEY]: '30' });
    await set('z1', {}, [LIMIT_KEY, PASSPHRASE_KEY]);
    await refused(set('z1', { [LIMIT_KEY]: '10', 'nas.backup.nothing': '1' }), 'SETTING_UNKNOWN');
    const limits = await changes({ zone: 'z1', key: LIMIT_KEY });
    assert.deepEqual(
      limits.changes.map(({ oldValue, newValue, unset }) => [oldValue, newValue, unset]),
      [
        ['20', '', true],
        ['10', '20', false],
        ['', '10', false],
      ],
    );
    assert.deepEqual(
      limits.changes.map(({ caller, correlationId }) => [caller, correlationId]),
      limits.changes.map(() => ['unix socket', 'test-1']),
    );
    assert.equal((await changes({ globalOnly: true })).changes.length, 1);
    assert.equal((await changes({ zone: 'z2' })).changes.length, 0);
    const seen: string[] = [];
    let pageToken = '';
    do {
      const page = await changes({ pageSize: 2, pageToken });
      seen.push(...page.changes.map(({ zone, key }) => `${zone} ${key}`));
      pageToken = page.nextPageToken;
    } while (pageToken !== '');
    assert.equal(seen.length, 6);
    assert.ok(!inspect(await changes(), { depth: 9 }).includes(PASSPHRASE));
    await refused(changes({ zone: 'nowhere' }), 'ZONE_NOT_FOUND');
    await refused(changes({ key: 'nothing' }), 'SETTING_UNKNOWN');
    await refused(changes({ zone: 'z1', globalOnly: true }), 'INVALID_REQUEST');
    await refused(changes({ pageToken: 'made up' }), 'INVALID_REQUEST');
  });

  it('cannot be set for one request when they hold for a whole zone', async () => {
    for (const key of ['nas.backup.bandwidth.zone.limit.mbps', 'nas.backup.concurrency.per.host']) {
      await set('z1', { [key]: '3' });
      assert.equal((await get('z1', key)).value, '3');
      const error = await refused(takeBackup(lab, { settings: { [key]: '4' } }), 'SETTING_INVALID');
      assert.equal(error.metadata['key'], key);
    }
    await refused(set('z1', { 'nas.backup.placement.label': 'no label' }), 'SETTING_INVALID');
    await set('z1', { 'nas.backup.placement.label': 'role=backup' });
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
