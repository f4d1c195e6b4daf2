import assert from 'node:assert/strict';
import { RestoreBackupRequest } from '@holdfast/proto/holdfast/v1/backup.ts';
import { SettingScope } from '@holdfast/proto/holdfast/v1/setting.ts';
import type { Operation } from '@holdfast/proto/holdfast/v1/operation.ts';
import { useHoldfast } from '../harness/fixture.ts';
import { succeeded } from '../harness/follow.ts';
import { filesDisk } from './support/guests.ts';

const COMPRESSION = 'nas.backup.compression.enabled';
const ALGORITHM = 'nas.backup.compression.algorithm';
const ENCRYPTION = 'nas.backup.encryption.enabled';
const PASSPHRASE = 'nas.backup.encryption.passphrase';
const LIMIT = 'nas.backup.bandwidth.limit.mbps';
const CHECK = 'nas.backup.integrity.check';

const { SETTING_SCOPE_DEFAULT, SETTING_SCOPE_GLOBAL, SETTING_SCOPE_ZONE, SETTING_SCOPE_REQUEST } =
  SettingScope;

/** Two agents that see the same domain, each in a zone of its own. */
describe('zones', () => {
  const fixture = useHoldfast({
    guest: { disks: [filesDisk], start: false },
    holdfast: { agents: [{ zone: 'z1' }, { zone: 'z2' }] },
  });

  it('give the same request different results: request before zone before global before default', async () => {
    const { guest, holdfast } = fixture;
    const { client } = holdfast;
    await client.setSettings('', { [CHECK]: 'true', [LIMIT]: '900' });
    await client.setSettings('z1', { [COMPRESSION]: 'true', [LIMIT]: '800' });
    await client.setSettings('z2', {
      [ENCRYPTION]: 'true',
      [PASSPHRASE]: 'the one of zone two',
      [CHECK]: 'false',
    });
    const request = (zone: string) => ({ zone, domain: guest.name, settings: { [LIMIT]: '700' } });
    const one = succeeded(await client.takeBackup(request('z1')));
    const two = succeeded(await client.takeBackup(request('z2')));

    assert.deepEqual(scopesOf(one), {
      [COMPRESSION]: ['true', SETTING_SCOPE_ZONE],
      [ALGORITHM]: ['zstd', SETTING_SCOPE_DEFAULT],
      [ENCRYPTION]: ['false', SETTING_SCOPE_DEFAULT],
      [PASSPHRASE]: ['', SETTING_SCOPE_DEFAULT],
      [LIMIT]: ['700', SETTING_SCOPE_REQUEST],
      [CHECK]: ['true', SETTING_SCOPE_GLOBAL],
    });
    assert.deepEqual(scopesOf(two), {
      [COMPRESSION]: ['false', SETTING_SCOPE_DEFAULT],
      [ALGORITHM]: ['zstd', SETTING_SCOPE_DEFAULT],
      [ENCRYPTION]: ['true', SETTING_SCOPE_ZONE],
      [PASSPHRASE]: ['', SETTING_SCOPE_ZONE],
      [LIMIT]: ['700', SETTING_SCOPE_REQUEST],
      [CHECK]: ['false', SETTING_SCOPE_ZONE],
    });
    assert.deepEqual([one.host, two.host], ['host-1', 'host-2']);
    assert.deepEqual([one.bandwidthLimitMibps, two.bandwidthLimitMibps], [700n, 700n]);
    const [first, second] = [await client.getBackup(one.backupId), await client.getBackup(two.backupId)];
    assert.deepEqual([first.compressed, first.encrypted, first.manifest?.checked], [true, false, true]);
    assert.deepEqual([second.compressed, second.encrypted, second.manifest?.checked], [false, true, false]);
    assert.ok(first.storedBytes < second.storedBytes);
    assert.deepEqual([first.repository, second.repository], ['nas-z1', 'nas-z2']);

    await client.setSettings('z1', {}, [LIMIT]);
    const without = succeeded(await client.takeBackup({ zone: 'z1', domain: guest.name }));
    assert.deepEqual(scopesOf(without)[LIMIT], ['900', SETTING_SCOPE_GLOBAL]);
  });

  it('do not reach into each other', async () => {
    const { guest, holdfast } = fixture;
    const { client } = holdfast;
    const refusal = { reason: 'ZONE_MISMATCH' };
    const domain = guest.name;
    await assert.rejects(client.startBackup({ zone: 'z1', domain, host: 'host-2' }), refusal);
    await assert.rejects(client.startBackup({ zone: 'z1', domain, repository: 'nas-z2' }), refusal);
    const { backupId } = succeeded(await client.takeBackup({ zone: 'z1', domain }));
    const directory = await holdfast.restoreDirectory();
    await assert.rejects(client.restoreBackup({ backupId, host: 'host-2', directory }), refusal);
    await assert.rejects(client.verifyBackup({ backupId, host: 'host-2' }), refusal);
    const { hosts, backups } = client;
    const address = `unix://${holdfast.agents[1]?.directory ?? ''}/a.sock`;
    await assert.rejects(
      client.call(hosts.addHost.bind(hosts), { zone: 'z1', name: 'other', address, labels: {} }),
      refusal,
    );
    // The same request in its own zone is fine.
    const request = RestoreBackupRequest.fromPartial({ backupId, host: 'host-1', directory });
    const { operation } = await client.call(backups.restoreBackup.bind(backups), request);
    succeeded(await client.follow(operation?.id ?? ''));
  });
});

/** Value and scope of the settings that these tests are about. */
function scopesOf(operation: Operation): Record<string, readonly [string, SettingScope]> {
  const keys = [COMPRESSION, ALGORITHM, ENCRYPTION, PASSPHRASE, LIMIT, CHECK];
  return Object.fromEntries(
    operation.settings
      .filter(({ key }) => keys.includes(key))
      .map(({ key, value, scope }) => [key, [value, scope] as const]),
  );
}
