import assert from 'node:assert/strict';
import { rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { useHoldfast } from '../harness/fixture.ts';
import { succeeded } from '../harness/follow.ts';
import { processesNaming } from '../harness/leftovers.ts';
import { filesDisk, restingDisk } from './support/guests.ts';
import { filesWith } from './support/marker.ts';

const PASSPHRASE = 'Eine Passphrase, die nirgends steht: äöü $(id) "x"';
/** How every age identity begins. */
const IDENTITY = 'AGE-SECRET-KEY-1';

describe('keys and secrets', () => {
  const fixture = useHoldfast({
    guest: { disks: [filesDisk, restingDisk(16)] },
    holdfast: { logLevel: 'debug' },
  });
  const encrypted = {
    'nas.backup.encryption.enabled': 'true',
    'nas.backup.encryption.passphrase': PASSPHRASE,
  };
  const compressed = { 'nas.backup.compression.enabled': 'true' };

  it('appear in no file, no log and no argument, during the run and after', async () => {
    const { lab, guest, holdfast } = fixture;
    const { client } = holdfast;
    await client.setSettings('z1', { ...encrypted, 'nas.backup.bandwidth.limit.mbps': '8' });
    const leaks = new Set<string>();
    let looks = 0;
    const look = async (): Promise<void> => {
      for (const directory of [holdfast.directory, path.join(lab.directory, 'log')]) {
        for (const file of await filesWith(directory, PASSPHRASE, IDENTITY)) {
          // Compiled code, which knows how a key begins.
          if (!file.includes('/compile-cache/')) leaks.add(file);
        }
      }
      for (const secret of [PASSPHRASE, IDENTITY]) {
        for (const { argv } of await processesNaming(secret)) leaks.add(argv.join(' '));
      }
      looks += 1;
    };
    const { backupId } = succeeded(
      await client.takeBackup({ zone: 'z1', domain: guest.name, settings: compressed }, async ({ event }) => {
        if (event?.$case === 'stageProgress' || event?.$case === 'stageStarted') await look();
      }),
    );
    succeeded(await client.verifyBackup({ backupId, passphrase: PASSPHRASE }, look));
    const directory = await holdfast.restoreDirectory();
    succeeded(await client.restoreBackup({ backupId, host: 'host-1', directory, disks: ['vdb'] }, look));
    await look();
    assert.deepEqual([...leaks], []);
    assert.ok(looks > 10, `${looks} looks`);

    const { zones } = client;
    const { settings } = await client.call(zones.getSettings.bind(zones), { zone: 'z1' });
    const passphrase = settings.find(({ key }) => key === 'nas.backup.encryption.passphrase');
    assert.deepEqual([passphrase?.value, passphrase?.hasValue], ['', true]);
    assert.ok(!JSON.stringify(settings).includes(PASSPHRASE));
    await client.setSettings('z1', { 'nas.backup.bandwidth.limit.mbps': '0' });

    await assert.rejects(client.verifyBackup({ backupId, passphrase: 'another' }), { reason: 'KEY_WRONG' });

    // What was looked for can be found: a look that sees nothing would pass everything.
    const planted = path.join(holdfast.directory, 'planted');
    await writeFile(planted, `${'x'.repeat(5_000_000)}${IDENTITY}`);
    await look();
    await rm(planted);
    assert.deepEqual([...leaks], [planted]);
  });
});
