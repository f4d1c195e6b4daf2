import assert from 'node:assert/strict';
import { Decrypter } from 'age-encryption';
import { VerifyBackupRequest } from '@holdfast/proto/holdfast/v1/backup.ts';
import type { TakeBackupStart, VerifyBackupStart } from '@holdfast/proto/holdfast/agent/v1/agent.ts';
import { OperationState, type Operation } from '@holdfast/proto/holdfast/v1/operation.ts';
import { happening, type FakeAgent } from '../testing/fake-agent.ts';
import {
  TEST_DEADLINE_MS,
  ask,
  jobOf,
  reaches,
  refused,
  startLab,
  takeBackup,
  type Lab,
} from '../testing/lab.ts';
import { describeOnBothStores } from '../testing/stores.ts';

const ENCRYPTED = { 'nas.backup.encryption.enabled': 'true' };
const IDENTITY = /^AGE-SECRET-KEY-1[A-Z0-9]+$/;

async function openWith(
  file: Uint8Array,
  key: { passphrase: string } | { identity: string },
): Promise<string> {
  const decrypter = new Decrypter();
  if ('passphrase' in key) decrypter.addPassphrase(key.passphrase);
  else decrypter.addIdentity(key.identity);
  return await decrypter.decrypt(file, 'text');
}

describeOnBothStores('the key hierarchy', function (kind) {
  this.timeout(TEST_DEADLINE_MS);
  let lab: Lab;
  let agent: FakeAgent;
  beforeEach(async () => {
    lab = await startLab(kind);
    agent = await lab.furnish();
  });
  afterEach(() => lab.close());

  const setPassphrase = (passphrase: string) =>
    ask(lab.clients.zones.setSettings.bind(lab.clients.zones), {
      zone: 'z1',
      values: { 'nas.backup.encryption.passphrase': passphrase },
      clear: [],
    });
  const backUp = async (
    settings: Record<string, string> = ENCRYPTED,
  ): Promise<{ operation: Operation; key: NonNullable<TakeBackupStart['key']> }> => {
    const operation = await takeBackup(lab, { settings });
    const job = await jobOf(agent, operation.id);
    const start = job.start as TakeBackupStart;
    job.emit(happening.accepted(), happening.backedUp(start));
    await reaches(lab, operation.id, OperationState.OPERATION_STATE_SUCCEEDED);
    assert.ok(start.key);
    return { operation, key: start.key };
  };
  const verify = (backupId: string, passphrase: string) =>
    ask(
      lab.clients.backups.verifyBackup.bind(lab.clients.backups),
      VerifyBackupRequest.fromPartial({ backupId, passphrase }),
    );
  const listKeys = async () =>
    (await ask(lab.clients.keys.listKeys.bind(lab.clients.keys), { zone: 'z1' })).keys;

  it('opens a backup from the passphrase down, with age alone', async () => {
    await setPassphrase('first');
    const { key } = await backUp();
    assert.match(key.secret, IDENTITY);
    const zoneKey = await openWith(key.zoneKeyFile, { passphrase: 'first' });
    assert.ok(zoneKey.endsWith('\n'));
    assert.match(zoneKey.trim(), IDENTITY);
    assert.equal(await openWith(key.wrappedKey, { identity: zoneKey.trim() }), key.secret);
    await assert.rejects(openWith(key.zoneKeyFile, { passphrase: 'second' }));
    const [listed, ...others] = await listKeys();
    assert.deepEqual(others, []);
    assert.equal(listed?.id, key.keyId);
    assert.equal(listed.backupCount, 1n);
    assert.match(listed.recipient, /^age1/);
  });

  it('gives each backup a key of its own', async () => {
    await setPassphrase('first');
    const one = await backUp();
    const other = await backUp();
    assert.notEqual(one.key.secret, other.key.secret);
    assert.equal(one.key.keyId, other.key.keyId);
    assert.deepEqual(one.key.zoneKeyFile, other.key.zoneKeyFile);
  });

  it('puts the same zone key under a changed passphrase, and older backups stay readable', async () => {
    await setPassphrase('first');
    const older = await backUp();
    await setPassphrase('second');
    const newer = await backUp();
    assert.equal(newer.key.keyId, older.key.keyId);
    const zoneKey = await openWith(newer.key.zoneKeyFile, { passphrase: 'second' });
    assert.equal(await openWith(older.key.zoneKeyFile, { passphrase: 'first' }), zoneKey);
    const { operation } = await verify(older.operation.backupId, 'second');
    const { start } = await jobOf(agent, operation?.id ?? '');
    assert.equal((start as VerifyBackupStart).backup?.secret, older.key.secret);
  });

  it('keeps a key apart for a passphrase that comes with a request', async () => {
    await setPassphrase('first');
    const zones = await backUp();
    const settings = { ...ENCRYPTED, 'nas.backup.encryption.passphrase': 'mine' };
    const one = await backUp(settings);
    const other = await backUp(settings);
    assert.notEqual(one.key.keyId, zones.key.keyId);
    assert.equal(one.key.keyId, other.key.keyId);
    await openWith(one.key.zoneKeyFile, { passphrase: 'mine' });
    assert.equal((await listKeys()).length, 2);
    await refused(verify(one.operation.backupId, 'first'), 'KEY_WRONG');
    await verify(one.operation.backupId, 'mine');
  });

  it('refuses a wrong passphrase before there is an operation, and needs none', async () => {
    await setPassphrase('first');
    const { operation, key } = await backUp();
    const error = await refused(verify(operation.backupId, 'wrong guess'), 'KEY_WRONG');
    assert.ok(!error.message.includes('wrong guess'));
    const restore = ask(lab.clients.backups.restoreBackup.bind(lab.clients.backups), {
      backupId: operation.backupId,
      host: 'h1',
      directory: '/restored',
      format: 0,
      disks: [],
      domainName: '',
      bandwidthLimitMibps: 0n,
      passphrase: 'wrong guess',
      requestId: '',
      rbd: undefined,
    });
    await refused(restore, 'KEY_WRONG');
    assert.equal(agent.jobs.size, 1);
    const { operation: verification } = await verify(operation.backupId, '');
    const { start } = await jobOf(agent, verification?.id ?? '');
    assert.equal((start as VerifyBackupStart).backup?.secret, key.secret);
  });

  it('writes no secret to its files', async () => {
    await setPassphrase('a rather long passphrase');
    const { key } = await backUp({ ...ENCRYPTED, 'nas.backup.encryption.passphrase': 'another long one' });
    // One that is still running, so that its job is stored.
    await takeBackup(lab, { settings: ENCRYPTED });
    const bytes = await lab.state.dump();
    for (const secret of ['a rather long passphrase', 'another long one', 'AGE-SECRET-KEY', key.secret]) {
      assert.ok(!bytes.includes(secret));
    }
  });
});
