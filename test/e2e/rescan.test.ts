import assert from 'node:assert/strict';
import { cp, mkdir, truncate } from 'node:fs/promises';
import path from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { execa } from 'execa';
import { grpcTarget, type Address } from '@holdfast/common/address.ts';
import { silentLogger } from '@holdfast/common/logger.ts';
import { Secret } from '@holdfast/common/secret.ts';
import type { Backup } from '@holdfast/proto/holdfast/v1/backup.ts';
import { AddRepositoryRequest } from '@holdfast/proto/holdfast/v1/repository.ts';
import { startController } from '../../controller/src/controller.ts';
import { connect, type Client } from '../harness/client.ts';
import { useHoldfast } from '../harness/fixture.ts';
import { succeeded } from '../harness/follow.ts';
import { MiB } from '../lab/spec.ts';
import { requireSameContent } from './support/images.ts';

const PROGRAM = path.resolve(import.meta.dirname, '../../cli/bin/holdfast');
const PASSPHRASE = 'of the zone, known to nobody else';

describe('a catalogue that was lost', () => {
  const fixture = useHoldfast({
    guest: {
      name: 'web',
      start: false,
      disks: [
        { target: 'vda', sizeBytes: 8 * MiB, content: { kind: 'pattern' } },
        { target: 'vdb', sizeBytes: 4 * MiB, format: 'raw', content: { kind: 'random', everyMiB: 2 } },
      ],
    },
  });
  const stack = new AsyncDisposableStack();
  after(() => stack.disposeAsync());
  const backups: Backup[] = [];
  let rows: readonly unknown[];

  const rescan = async (
    address: Address,
  ): Promise<{ readonly stdout: string; readonly exitCode: number }> => {
    const args = ['--controller', grpcTarget(address), 'repository', 'rescan', 'nas-z1'];
    const { stdout, exitCode } = await execa(PROGRAM, args, { timeout: 60_000, reject: false });
    return { stdout, exitCode: exitCode ?? -1 };
  };
  const stateOf = (directory: string): string => path.join(directory, 'controller.sqlite');

  /** A controller that has the zone, its host and its repository, and knows of nothing else. */
  const emptyController = async (
    name: string,
  ): Promise<{ readonly at: Address; readonly client: Client; readonly state: string }> => {
    const { lab, holdfast } = fixture;
    const directory = path.join(lab.directory, 'shared', name);
    await mkdir(directory);
    const at: Address = { kind: 'unix', path: path.join(directory, 'c.sock') };
    const controller = await startController({
      listen: [at],
      state: { kind: 'sqlite', directory: path.join(directory, 'state') },
      masterKey: new Secret('a5'.repeat(32)),
      logger: silentLogger,
    });
    stack.defer(() => controller.close());
    const client = stack.use(connect(at));
    const { zones, hosts, repositories } = client;
    await client.call(zones.createZone.bind(zones), { name: 'z1' });
    const address = grpcTarget(holdfast.agent.address);
    await client.call(hosts.addHost.bind(hosts), { zone: 'z1', name: 'host-1', address, labels: {} });
    const request = { zone: 'z1', name: 'nas-z1', path: holdfast.repository() };
    await client.call(
      repositories.addRepository.bind(repositories),
      AddRepositoryRequest.fromPartial(request),
    );
    return { at, client, state: stateOf(path.join(directory, 'state')) };
  };
  const importKeys = (client: Client, passphrase: string) =>
    client.call(client.keys.importKeys.bind(client.keys), {
      ...{ zone: 'z1', repository: 'nas-z1', passphrase, requestPassphrase: false },
    });
  /** With the passphrase, all backups are proved as the guest saw them, and the encrypted ones are restored. */
  const requireUsable = async (client: Client): Promise<void> => {
    const { guest, holdfast } = fixture;
    await importKeys(client, PASSPHRASE);
    for (const { id, encrypted } of backups) {
      succeeded(await client.verifyBackup({ backupId: id, level: 'content' }));
      if (!encrypted) continue;
      const directory = await holdfast.restoreDirectory();
      const { result } = succeeded(await client.restoreBackup({ backupId: id, host: 'host-1', directory }));
      assert.equal(result?.result?.$case, 'restore');
      for (const disk of guest.disks) {
        const restored = result.result.value.disks.find(({ target }) => target === disk.target);
        await requireSameContent(disk, { path: restored?.path ?? '', format: 'qcow2' });
      }
    }
  };

  before(async () => {
    const { client, controller, repository } = fixture.holdfast;
    await client.setSettings('z1', { 'nas.backup.encryption.passphrase': PASSPHRASE });
    const compressed = { 'nas.backup.compression.enabled': 'true' };
    const encrypted = { 'nas.backup.encryption.enabled': 'true' };
    await client.setSettings('z1', { 'nas.backup.integrity.digests': 'content' });
    for (const settings of [
      {},
      compressed,
      { ...encrypted, 'nas.backup.integrity.check': 'true' },
      { ...encrypted, ...compressed },
    ]) {
      const { backupId } = succeeded(await client.takeBackup({ zone: 'z1', domain: 'web', settings }));
      backups.push(await client.getBackup(backupId));
    }
    rows = rowsOf(stateOf(path.join(controller.directory, 'state')));
    assert.equal(rows.length, 4);

    // What must not be taken for a backup.
    const [first, second] = backups;
    assert.ok(first && second);
    const folder = (name: string): string => path.join(repository(), path.dirname(first.path), name);
    const original = path.join(repository(), first.path);
    await mkdir(path.join(repository(), 'i-2-10-VM', '2026.01.31.12.00.00'), { recursive: true });
    await cp(original, `${folder('20990101T000000Z')}-${second.id}`, { recursive: true });
    await cp(original, folder(`20990101T000000Z-${second.id}.partial`), { recursive: true });
    const cutOff = `${folder('20990102T000000Z')}-${first.id}`;
    await cp(original, cutOff, { recursive: true });
    await truncate(path.join(cutOff, 'vda.qcow2'), 1);
  });

  it('is made again, row by row, from the repository by a controller that knows nothing', async () => {
    const { holdfast } = fixture;
    const { at, client, state } = await emptyController('n');
    const { stdout, exitCode } = await rescan(at);
    const [plain, , sealed] = backups;
    assert.ok(plain && sealed);
    assert.match(stdout, new RegExp(`^imported +${plain.path} +\\(web\\)$`, 'm'));
    assert.match(stdout, new RegExp(`^imported +${sealed.path} +\\(web\\) +Zone key .* is not known`, 'm'));
    assert.match(stdout, /^foreign +i-2-10-VM /m);
    assert.match(stdout, /^unfinished +\S+\.partial /m);
    assert.match(stdout, /^moved +\S+\/20990101T000000Z-/m);
    assert.match(stdout, /^damaged +\S+\/20990102T000000Z-\S+ +vda\.qcow2 has 1 bytes/m);
    assert.match(stdout, /\n8 folders: 4 backups entered, 0 known already, 4 other things\.$/);
    // There is something damaged.
    assert.equal(exitCode, 6);
    assert.deepEqual(rowsOf(state), rows);

    succeeded(await client.verifyBackup({ backupId: plain.id }));
    const restored = await holdfast.restoreDirectory();
    succeeded(
      await client.restoreBackup({ backupId: plain.id, host: 'host-1', directory: restored, disks: ['vda'] }),
    );
    await assert.rejects(client.restoreBackup({ backupId: sealed.id, host: 'host-1', directory: restored }), {
      reason: 'KEY_MISSING',
    });
    await assert.rejects(importKeys(client, 'another'), { reason: 'KEY_WRONG' });
    await requireUsable(client);
  });

  it('is made again by a controller that has its keys, which proves the encrypted ones authentic', async () => {
    const { controller, client } = fixture.holdfast;
    const state = stateOf(path.join(controller.directory, 'state'));
    await controller.kill();
    const db = new DatabaseSync(state);
    db.exec('delete from backups');
    db.close();
    await controller.start();
    const { stdout } = await rescan(controller.address);
    for (const { path: folder, encrypted } of backups) {
      const end = encrypted ? ' +authentic$' : '$';
      assert.match(stdout, new RegExp(`^imported +${folder} +\\(web\\)${end}`, 'm'));
    }
    assert.deepEqual(rowsOf(state), rows);
    const again = await rescan(controller.address);
    assert.match(again.stdout, /\n8 folders: 0 backups entered, 4 known already, 4 other things\.$/);
    for (const { id } of backups) succeeded(await client.verifyBackup({ backupId: id }));
  });

  it('is made again after its key was rotated, and the passphrase is all that a new controller needs', async () => {
    const { client, controller } = fixture.holdfast;
    const { keys } = client;
    const { operation } = await client.call(keys.rotateKey.bind(keys), { zone: 'z1', requestId: '' });
    succeeded(await client.follow(operation?.id ?? ''));
    const before = rowsOf(stateOf(path.join(controller.directory, 'state')));
    const another = await emptyController('m');
    await rescan(another.at);
    assert.deepEqual(rowsOf(another.state).map(withoutVerifications), before.map(withoutVerifications));
    await requireUsable(another.client);
  });
});

/** The rows of the catalogue in a database. */
function rowsOf(file: string): readonly unknown[] {
  const db = new DatabaseSync(file, { readOnly: true });
  try {
    return db.prepare('select * from backups order by id').all();
  } finally {
    db.close();
  }
}

/** A row of the catalogue without what later verifications came to, which no repository knows. */
function withoutVerifications(row: unknown): unknown {
  return Object.fromEntries(
    Object.entries(row as object).filter(
      ([column]) => !/^(?:verify|proof|damage)_|_(?:proof|unproved)_/.test(column),
    ),
  );
}
