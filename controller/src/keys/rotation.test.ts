import assert from 'node:assert/strict';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { Decrypter, generateX25519Identity, identityToRecipient } from 'age-encryption';
import { HoldfastError } from '@holdfast/common/errors.ts';
import { VerifyBackupRequest } from '@holdfast/proto/holdfast/v1/backup.ts';
import type { TakeBackupStart, VerifyBackupStart } from '@holdfast/proto/holdfast/agent/v1/agent.ts';
import { KeyState, type Key } from '@holdfast/proto/holdfast/v1/key.ts';
import { OperationKind, OperationState, type Operation } from '@holdfast/proto/holdfast/v1/operation.ts';
import { happening, type FakeAgent, type FakeJob } from '../testing/fake-agent.ts';
import {
  TEST_DEADLINE_MS,
  ask,
  eventually,
  jobOf,
  reaches,
  refused,
  setSettings,
  startLab,
  takeBackup,
  type Lab,
} from '../testing/lab.ts';
import { describeOnBothStores, query } from '../testing/stores.ts';

const { KEY_STATE_ACTIVE, KEY_STATE_RETIRED, KEY_STATE_RETIRING, KEY_STATE_REQUEST, KEY_STATE_MISSING } =
  KeyState;
const { OPERATION_STATE_SUCCEEDED, OPERATION_STATE_CANCELLED } = OperationState;
const ENCRYPTED = { 'nas.backup.encryption.enabled': 'true' };
const PASSPHRASE = 'nas.backup.encryption.passphrase';
const ESCROW = 'nas.backup.encryption.escrow.recipients';
const STALLED = new HoldfastError('REPOSITORY_STALLED', 'the NAS does not answer');

async function openWith(file: Uint8Array, identity: string): Promise<string> {
  const decrypter = new Decrypter();
  decrypter.addIdentity(identity);
  return await decrypter.decrypt(file, 'text');
}

async function opensUnder(file: Uint8Array, passphrase: string): Promise<boolean> {
  const decrypter = new Decrypter();
  decrypter.addPassphrase(passphrase);
  return await decrypter.decrypt(file, 'text').then(
    () => true,
    () => false,
  );
}

describeOnBothStores('keys that change', function (kind) {
  this.timeout(TEST_DEADLINE_MS);
  let lab: Lab;
  let agent: FakeAgent;
  beforeEach(async () => {
    lab = await startLab(kind);
    agent = await lab.furnish();
    await setSettings(lab, { [PASSPHRASE]: 'first' });
  });
  afterEach(() => lab.close());

  const begin = async (settings: Record<string, string> = ENCRYPTED): Promise<[Operation, FakeJob]> => {
    const operation = await takeBackup(lab, { settings });
    const job = await jobOf(agent, operation.id);
    job.emit(happening.accepted());
    return [operation, job];
  };
  const end = async ([operation, job]: [Operation, FakeJob]): Promise<string> => {
    job.emit(happening.backedUp(job.start as TakeBackupStart));
    await reaches(lab, operation.id, OPERATION_STATE_SUCCEEDED);
    return operation.backupId;
  };
  const backUp = async (settings?: Record<string, string>): Promise<string> => end(await begin(settings));
  const listKeys = async (): Promise<readonly Key[]> =>
    (await ask(lab.clients.keys.listKeys.bind(lab.clients.keys), { zone: 'z1' })).keys;
  const states = async (): Promise<Record<string, KeyState>> =>
    Object.fromEntries((await listKeys()).map(({ id, state }) => [id, state]));
  const rotate = (requestId = '') =>
    ask(lab.clients.keys.rotateKey.bind(lab.clients.keys), { zone: 'z1', requestId });
  const rotated = async (): Promise<Operation> => {
    const { operation } = await rotate();
    return await reaches(lab, operation?.id ?? '', OPERATION_STATE_SUCCEEDED);
  };
  const verify = async (backupId: string, passphrase = ''): Promise<string> => {
    const { backups } = lab.clients;
    const request = VerifyBackupRequest.fromPartial({ backupId, passphrase });
    const { operation } = await ask(backups.verifyBackup.bind(backups), request);
    const job = await jobOf(agent, operation?.id ?? '');
    job.emit(happening.accepted(), happening.verified());
    return (job.start as VerifyBackupStart).backup?.secret ?? '';
  };
  const files = (): string[] => [...(agent.keyFiles.get('r1')?.keys() ?? [])].toSorted();
  const file = (name: string): Buffer => agent.keyFiles.get('r1')?.get(name) ?? Buffer.alloc(0);
  const idle = async (): Promise<void> => {
    await eventually(async () => {
      const { operations } = lab.clients;
      const request = { activeOnly: true, zone: 'z1', states: [], pageSize: 0, pageToken: '' };
      const found = await ask(operations.listOperations.bind(operations), {
        ...{ host: '', domain: '', createTimeFrom: undefined, createTimeBefore: undefined },
        ...request,
      });
      const updates = found.operations.filter(
        (each) => each.kind === OperationKind.OPERATION_KIND_UPDATE_KEYS,
      );
      return updates.length === 0;
    });
  };
  const sql = async (text: string): Promise<Record<string, unknown>[]> => {
    const { place } = lab.state;
    if (place.kind === 'postgres') return await query(place.url.reveal(), text);
    using database = new DatabaseSync(join(place.directory, 'controller.sqlite'), { timeout: 5_000 });
    return database.prepare(text).all();
  };

  it('wraps all backups to a new key, and leaves nothing of the old one', async () => {
    const backups = [await backUp(), await backUp(), await backUp()];
    const secrets = await Promise.all(backups.map((id) => verify(id)));
    const [old] = await listKeys();
    const sealed = (await sql('select identity_sealed from keys'))[0]?.['identity_sealed'] as Uint8Array;
    assert.ok((await lab.state.dump()).includes(Buffer.from(sealed)));

    const operation = await rotated();
    assert.deepEqual(operation.result?.result, {
      $case: 'keys',
      value: { backupCount: 3n, retiredKeyIds: [old?.id] },
    });
    assert.equal(operation.keysProgress?.doneCount, 3n);
    const [present, before] = await listKeys();
    assert.deepEqual(
      [present?.state, present?.backupCount, before?.id, before?.state, before?.backupCount],
      [KEY_STATE_ACTIVE, 3n, old?.id, KEY_STATE_RETIRED, 0n],
    );
    assert.ok(before?.retireTime);
    const names = [
      ...backups.map((id) => `some/${id}/key.${present?.id ?? ''}.age`),
      `zone-keys/${present?.id ?? ''}.age`,
    ];
    assert.deepEqual(files(), names.toSorted());
    assert.deepEqual(await Promise.all(backups.map((id) => verify(id, 'first'))), secrets);
    const dump = await lab.state.dump();
    assert.ok(
      !dump.includes(Buffer.from(sealed)),
      'the secret of the old key is in the files of the database',
    );
    assert.ok(await opensUnder(file(`zone-keys/${present?.id ?? ''}.age`), 'first'));
    const newer = await jobOf(agent, (await begin())[0].id);
    assert.equal((newer.start as TakeBackupStart).key?.keyId, present?.id);
  });

  it('finds what the catalogue does not know of, and says what no key opens', async () => {
    const backupId = await backUp();
    const [old] = await listKeys();
    const stray = `elsewhere/x/key.${old?.id ?? ''}.age`;
    const garbage = `elsewhere/y/key.${old?.id ?? ''}.age`;
    agent.keyFiles.get('r1')?.set(stray, file(`some/${backupId}/key.${old?.id ?? ''}.age`));
    agent.keyFiles.get('r1')?.set(garbage, Buffer.from('garbage'));
    const { warnings } = await rotated();
    const [present] = await listKeys();
    assert.ok(files().includes(`elsewhere/x/key.${present?.id ?? ''}.age`));
    assert.ok(!files().includes(stray));
    assert.deepEqual(
      warnings.map(({ reason }) => reason),
      ['BACKUP_DAMAGED'],
    );
    assert.match(warnings[0]?.message ?? '', /elsewhere\/y/);
  });

  it('puts a changed passphrase in force in the repository, as soon as that answers, whoever was killed', async () => {
    await backUp();
    const [key] = await listKeys();
    const name = `zone-keys/${key?.id ?? ''}.age`;
    agent.repositoryProblem = STALLED;
    await setSettings(lab, { [PASSPHRASE]: 'second' });
    const pending = await eventually(async () => {
      const found = (await listKeys())[0]?.pending ?? [];
      return found[0]?.message === '' ? undefined : found;
    });
    assert.deepEqual(pending, [{ repository: 'r1', message: STALLED.message }]);
    assert.ok(await opensUnder(file(name), 'first'));
    await lab.restartController();
    assert.equal((await listKeys())[0]?.pending.length, 1);
    agent.repositoryProblem = undefined;
    await idle();
    assert.deepEqual((await listKeys())[0]?.pending, []);
    assert.ok(await opensUnder(file(name), 'second'));
    assert.ok(!(await opensUnder(file(name), 'first')));
  });

  it('puts a passphrase for all zones in force', async () => {
    await backUp();
    await setSettings(lab, {}, [PASSPHRASE]);
    const { zones } = lab.clients;
    await ask(zones.setSettings.bind(zones), { zone: '', values: { [PASSPHRASE]: 'for all' }, clear: [] });
    await idle();
    const name = files().find((each) => each.startsWith('zone-keys/')) ?? '';
    assert.ok(await opensUnder(file(name), 'for all'));
  });

  it('puts the passphrase right again that a backup of before has written late', async () => {
    await backUp();
    const late = await begin();
    await setSettings(lab, { [PASSPHRASE]: 'second' });
    await eventually(async () => {
      return (await listKeys())[0]?.pending[0]?.message.includes('began before the change');
    });
    await end(late);
    await idle();
    const name = files().find((each) => each.startsWith('zone-keys/')) ?? '';
    assert.ok(await opensUnder(file(name), 'second'));
  });

  it('goes on where it was left when the controller is killed', async () => {
    const backups = [await backUp(), await backUp()];
    const [old] = await listKeys();
    let calls = 0;
    let stopped: Promise<void> | undefined;
    agent.onKeyFiles = (request) => {
      if (request.backups.length === 0) return;
      calls += 1;
      // The answer goes to nobody.
      stopped ??= lab.stopController();
    };
    await rotate();
    await eventually(() => Promise.resolve(stopped !== undefined));
    await stopped;
    await lab.restartController();
    await idle();
    assert.ok(calls >= 1);
    assert.equal((await states())[old?.id ?? ''], KEY_STATE_RETIRED);
    assert.equal(files().filter((name) => name.includes(old?.id ?? '')).length, 0);
    for (const id of backups) assert.match(await verify(id), /^AGE-SECRET-KEY-1/);
  });

  it('outranks all updates of before, also those that a state which was put back does not know', async () => {
    await backUp();
    agent.keyEpochs.set('r1', 41n);
    await rotated();
    const first = agent.keyEpochs.get('r1') ?? 0n;
    assert.ok(first > 41n);
    await rotated();
    assert.ok((agent.keyEpochs.get('r1') ?? 0n) > first);
  });

  it('waits for a backup that is being taken, and wraps it too', async () => {
    await backUp();
    const running = await begin();
    const [old] = await listKeys();
    const { operation } = await rotate();
    await eventually(async () => {
      const key = (await listKeys()).find(({ id }) => id === old?.id);
      return key?.pending[0]?.message.includes(running[0].id);
    });
    assert.equal((await states())[old?.id ?? ''], KEY_STATE_RETIRING);
    const backupId = await end(running);
    await reaches(lab, operation?.id ?? '', OPERATION_STATE_SUCCEEDED);
    assert.equal((await states())[old?.id ?? ''], KEY_STATE_RETIRED);
    assert.ok(!files().some((name) => name.includes(old?.id ?? '')));
    assert.match(await verify(backupId), /^AGE-SECRET-KEY-1/);
  });

  it('is refused without a key, and while one runs; repeated, it is the same; cancelled, it is finished later', async () => {
    await refused(rotate(), 'KEY_NOT_FOUND');
    await backUp();
    agent.repositoryProblem = STALLED;
    const requestId = '5f0c9d3e-1f57-4c5d-8f5c-0d8f1f2d7a10';
    const { operation, keyId } = await rotate(requestId);
    const again = await rotate(requestId);
    assert.deepEqual([again.operation?.id, again.keyId], [operation?.id, keyId]);
    await refused(rotate(), 'IN_USE');
    const { operations } = lab.clients;
    const operationId = operation?.id ?? '';
    await ask(operations.cancelOperation.bind(operations), { operationId });
    await reaches(lab, operationId, OPERATION_STATE_CANCELLED);
    assert.deepEqual(Object.values(await states()), [KEY_STATE_ACTIVE, KEY_STATE_RETIRING]);
    agent.repositoryProblem = undefined;
    await rotated();
    assert.deepEqual(Object.values(await states()), [KEY_STATE_ACTIVE, KEY_STATE_RETIRED, KEY_STATE_RETIRED]);
    assert.equal(files().length, 2);
  });

  it('is cancelled in time while a repository hangs, and finished later', async () => {
    await backUp();
    const written = Promise.withResolvers<undefined>();
    let calls = 0;
    agent.onKeyFiles = async () => {
      calls++;
      await written.promise;
    };
    const { operation } = await rotate();
    await eventually(() => Promise.resolve(calls === 1));
    const operationId = operation?.id ?? '';
    const cancelledMs = performance.now();
    await ask(lab.clients.operations.cancelOperation.bind(lab.clients.operations), { operationId });
    await reaches(lab, operationId, OPERATION_STATE_CANCELLED);
    assert.ok(performance.now() - cancelledMs < 5_500);
    // The next one does not begin there before that has ended.
    const next = await rotate();
    await eventually(async () =>
      Object.values(await states()).filter((state) => state === KEY_STATE_RETIRING).length === 2
        ? true
        : undefined,
    );
    assert.equal(calls, 1);
    written.resolve(undefined);
    await reaches(lab, next.operation?.id ?? '', OPERATION_STATE_SUCCEEDED);
    assert.deepEqual(Object.values(await states()), [KEY_STATE_ACTIVE, KEY_STATE_RETIRED, KEY_STATE_RETIRED]);
    assert.equal(files().length, 2);
  });

  it('leaves backups under a passphrase of their request alone', async () => {
    await backUp();
    const own = await backUp({ ...ENCRYPTED, [PASSPHRASE]: 'mine' });
    const before = (await listKeys()).find(({ state }) => state === KEY_STATE_REQUEST);
    await rotated();
    await setSettings(lab, { [PASSPHRASE]: 'second' });
    await idle();
    const after = (await listKeys()).find(({ state }) => state === KEY_STATE_REQUEST);
    assert.deepEqual(after, before);
    assert.match(await verify(own, 'mine'), /^AGE-SECRET-KEY-1/);
    assert.ok(await opensUnder(file(`zone-keys/${after?.id ?? ''}.age`), 'mine'));
  });

  it('wraps backups to escrow recipients, those that are there too, and to no others', async () => {
    const identity = await generateX25519Identity();
    const recipient = await identityToRecipient(identity);
    const older = await backUp();
    const own = await backUp({ ...ENCRYPTED, [PASSPHRASE]: 'mine' });
    await refused(setSettings(lab, { [ESCROW]: 'age1nonsense' }), 'SETTING_INVALID');
    const mistyped = recipient.replace(/.$/, (last) => (last === 'q' ? 'p' : 'q'));
    await refused(setSettings(lab, { [ESCROW]: mistyped }), 'SETTING_INVALID');
    await refused(backUp({ ...ENCRYPTED, [ESCROW]: recipient }), 'SETTING_INVALID');
    await setSettings(lab, { [ESCROW]: recipient });
    await idle();
    const newer = await backUp();
    const nameOf = (id: string): string => files().find((name) => name.startsWith(`some/${id}/`)) ?? '';
    for (const id of [older, own, newer]) {
      assert.equal(await openWith(file(nameOf(id)), identity), await verify(id));
    }
    await rotated();
    assert.equal(await openWith(file(nameOf(older)), identity), await verify(older));
    await setSettings(lab, {}, [ESCROW]);
    await idle();
    for (const id of [older, own, newer]) await assert.rejects(openWith(file(nameOf(id)), identity));
    assert.match(await verify(older), /^AGE-SECRET-KEY-1/);
  });

  /** As a controller that was made from a repository: it knows the backups, and no key. */
  const forget = async (): Promise<void> => {
    await lab.stopController();
    const none = kind === 'sqlite' ? "x''" : "''";
    await sql(
      `update keys set state = 'missing', recipient = '', identity_sealed = ${none}, passphrase_sealed = ${none}, key_file = null`,
    );
    await sql(`delete from settings where key = '${PASSPHRASE}'`);
    await lab.restartController();
  };
  const importKeys = (passphrase: string, requestPassphrase = false) =>
    ask(lab.clients.keys.importKeys.bind(lab.clients.keys), {
      ...{ zone: 'z1', repository: '', passphrase, requestPassphrase },
    });

  it('are taken over from a repository with their passphrases', async () => {
    const backupId = await backUp();
    const own = await backUp({ ...ENCRYPTED, [PASSPHRASE]: 'mine' });
    const secrets = [await verify(backupId), await verify(own)];
    const before = await states();
    await forget();
    await refused(verify(backupId), 'KEY_MISSING');
    await refused(importKeys('wrong'), 'KEY_WRONG');
    assert.deepEqual(Object.values(await states()), [KEY_STATE_MISSING, KEY_STATE_MISSING]);
    const { keys } = await importKeys('first');
    assert.deepEqual(
      keys.map(({ state, backupCount }) => [state, backupCount]),
      [[KEY_STATE_ACTIVE, 1n]],
    );
    await importKeys('mine', true);
    assert.deepEqual(await states(), before);
    assert.deepEqual([await verify(backupId), await verify(own, 'mine')], secrets);
    await refused(importKeys('first'), 'KEY_NOT_FOUND');
  });

  it('of another controller are replaced by the one that the zone has', async () => {
    const backupId = await backUp();
    const secret = await verify(backupId);
    await forget();
    await setSettings(lab, { [PASSPHRASE]: 'new' });
    await backUp();
    const { operation } = await importKeys('first');
    await reaches(lab, operation?.id ?? '', OPERATION_STATE_SUCCEEDED);
    assert.deepEqual(
      Object.values(await states()).toSorted(),
      [KEY_STATE_ACTIVE, KEY_STATE_RETIRED].toSorted(),
    );
    assert.equal(await verify(backupId, 'new'), secret);
    assert.equal(files().filter((name) => name.startsWith('zone-keys/')).length, 1);
  });

  it('that are lost are made up for by an escrow identity, which is not kept', async () => {
    const identity = await generateX25519Identity();
    await setSettings(lab, { [ESCROW]: await identityToRecipient(identity) });
    const backupId = await backUp();
    const secret = await verify(backupId);
    await forget();
    const recover = (given: string) =>
      ask(lab.clients.keys.recoverKeys.bind(lab.clients.keys), { zone: 'z1', identity: given });
    await refused(recover('nonsense'), 'INVALID_REQUEST');
    await refused(recover(await generateX25519Identity()), 'KEY_WRONG');
    await refused(recover(identity), 'PASSPHRASE_MISSING');
    await setSettings(lab, { [PASSPHRASE]: 'new' });
    const { recoveredCount, missingCount, operation } = await recover(identity);
    assert.deepEqual([recoveredCount, missingCount], [1n, 0n]);
    await reaches(lab, operation?.id ?? '', OPERATION_STATE_SUCCEEDED);
    assert.equal(await verify(backupId, 'new'), secret);
    const name = files().find((each) => each.startsWith(`some/${backupId}/`)) ?? '';
    assert.equal(await openWith(file(name), identity), secret);
    assert.ok(!(await lab.state.dump()).includes(identity));
    assert.equal((await recover(identity)).recoveredCount, 0n);
  });
});
