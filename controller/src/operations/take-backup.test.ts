import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { grpcTarget } from '@holdfast/common/address.ts';
import type { TakeBackupStart } from '@holdfast/proto/holdfast/agent/v1/agent.ts';
import { RbdTarget } from '@holdfast/proto/holdfast/v1/backup.ts';
import { ListOperationsRequest, OperationState } from '@holdfast/proto/holdfast/v1/operation.ts';
import { AddRepositoryRequest } from '@holdfast/proto/holdfast/v1/repository.ts';
import { SettingScope } from '@holdfast/proto/holdfast/v1/setting.ts';
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

describeOnBothStores('what a backup request may say', function (kind) {
  this.timeout(TEST_DEADLINE_MS);
  let lab: Lab;
  let agent: FakeAgent;
  beforeEach(async () => {
    lab = await startLab(kind);
    agent = await lab.furnish();
  });
  afterEach(() => lab.close());

  const addHost = async (name: string, zone: string): Promise<FakeAgent> => {
    const added = await lab.startAgent(name, zone);
    const { hosts } = lab.clients;
    await ask(hosts.addHost.bind(hosts), {
      ...{ zone, name, address: grpcTarget(added.address), labels: {} },
    });
    return added;
  };
  const operationCount = async (): Promise<number> => {
    const { operations } = lab.clients;
    const request = ListOperationsRequest.fromPartial({});
    return (await ask(operations.listOperations.bind(operations), request)).operations.length;
  };

  it('refuses what is not there or not right, and stores nothing', async () => {
    await refused(takeBackup(lab, { zone: '' }), 'INVALID_REQUEST');
    await refused(takeBackup(lab, { zone: 'z7' }), 'ZONE_NOT_FOUND');
    await refused(takeBackup(lab, { domain: '' }), 'INVALID_REQUEST');
    await refused(takeBackup(lab, { domain: 'a b"c,\n../ü' }), 'DOMAIN_NOT_FOUND');
    await refused(takeBackup(lab, { host: 'h7' }), 'HOST_NOT_FOUND');
    await refused(takeBackup(lab, { repository: 'r7' }), 'REPOSITORY_NOT_FOUND');
    await refused(takeBackup(lab, { requestId: 'not a uuid' }), 'INVALID_REQUEST');
    await refused(takeBackup(lab, { settings: { 'nas.backup.nothing': '1' } }), 'SETTING_UNKNOWN');
    const limit = (value: string) => ({ settings: { 'nas.backup.bandwidth.limit.mbps': value } });
    await refused(takeBackup(lab, limit('-1')), 'SETTING_INVALID');
    await refused(takeBackup(lab, limit('99999999999')), 'SETTING_INVALID');
    await refused(
      takeBackup(lab, { settings: { 'nas.backup.encryption.enabled': 'true' } }),
      'PASSPHRASE_MISSING',
    );
    for (const state of ['paused', 'crashed', 'pmsuspended', 'in shutdown']) {
      agent.domains = [{ uuid: randomUUID(), name: 'vm', state }];
      const error = await refused(takeBackup(lab), 'DOMAIN_STATE');
      assert.ok(error.message.includes(state));
    }
    assert.equal(await operationCount(), 0);
    assert.equal(agent.jobs.size, 0);
  });

  it('refuses a call across zones', async () => {
    const { zones, repositories } = lab.clients;
    await ask(zones.createZone.bind(zones), { name: 'z2' });
    const other = await addHost('h2', 'z2');
    other.domains = [{ uuid: randomUUID(), name: 'far', state: 'running' }];
    await ask(
      repositories.addRepository.bind(repositories),
      AddRepositoryRequest.fromPartial({
        zone: 'z2',
        name: 'r2',
        type: 0,
        path: '/r2',
      }),
    );
    await refused(takeBackup(lab, { host: 'h2' }), 'ZONE_MISMATCH');
    await refused(takeBackup(lab, { repository: 'r2' }), 'ZONE_MISMATCH');
    await refused(takeBackup(lab, { domain: 'far' }), 'DOMAIN_NOT_FOUND');
    const { id } = await takeBackup(lab, { zone: 'z2', domain: 'far' });
    await jobOf(other, id);
  });

  it('finds the domain although another host is down, and says which could not be asked', async () => {
    const down = await addHost('h0', 'z1');
    await down.stop();
    const { host } = await takeBackup(lab);
    assert.equal(host, 'h1');
    const error = await refused(takeBackup(lab, { domain: 'nothing' }), 'DOMAIN_NOT_FOUND');
    assert.match(error.message, /h0/);
    await refused(takeBackup(lab, { domain: 'vm', host: 'h0' }), 'AGENT_UNREACHABLE');
  });

  it('wants the host named when a name is on two, and the repository when there are two', async () => {
    const second = await addHost('h2', 'z1');
    second.domains = [{ uuid: randomUUID(), name: 'vm', state: 'running' }];
    const error = await refused(takeBackup(lab), 'INVALID_REQUEST');
    assert.match(error.message, /h1.*h2/);
    const { host } = await takeBackup(lab, { host: 'h2' });
    assert.equal(host, 'h2');
    const { repositories } = lab.clients;
    await ask(
      repositories.addRepository.bind(repositories),
      AddRepositoryRequest.fromPartial({
        zone: 'z1',
        name: 'r2',
        type: 0,
        path: '/r2',
      }),
    );
    const choice = await refused(takeBackup(lab, { host: 'h1' }), 'INVALID_REQUEST');
    assert.match(choice.message, /r1, r2/);
  });

  it('lets one backup of a domain run at a time, by name or UUID', async () => {
    const { id } = await takeBackup(lab);
    const error = await refused(takeBackup(lab), 'DOMAIN_BUSY');
    assert.equal(error.metadata['operation'], id);
    const uuid = agent.domains[0]?.uuid ?? '';
    await refused(takeBackup(lab, { domain: uuid }), 'DOMAIN_BUSY');
    const job = await jobOf(agent, id);
    job.emit(happening.accepted(), happening.backedUp(job.start as TakeBackupStart));
    await reaches(lab, id, OperationState.OPERATION_STATE_SUCCEEDED);
    await takeBackup(lab, { domain: uuid });
  });

  it('gives the same operation for the same request id, and refuses another request under it', async () => {
    const requestId = randomUUID();
    const settings = { 'nas.backup.compression.enabled': 'true', 'nas.backup.integrity.check': 'true' };
    const twice = await Promise.all([
      takeBackup(lab, { requestId, settings }),
      takeBackup(lab, { requestId: requestId.toUpperCase(), settings }).catch((error: unknown) => error),
    ]);
    const first = twice[0];
    const again = await takeBackup(lab, {
      requestId,
      settings: Object.fromEntries(Object.entries(settings).reverse()),
    });
    assert.equal(again.id, first.id);
    assert.equal(await operationCount(), 1);
    await refused(takeBackup(lab, { requestId, settings: {} }), 'INVALID_REQUEST');
    const { backups } = lab.clients;
    await refused(
      ask(backups.deleteBackup.bind(backups), { backupId: first.backupId, requestId }),
      'INVALID_REQUEST',
    );
  });

  it('tells the agent how long to wait, and how much the last backup of the same kind stored', async () => {
    const startOf = async (settings: Record<string, string> = {}): Promise<TakeBackupStart> => {
      const operation = await takeBackup(lab, { settings });
      const job = await jobOf(agent, operation.id);
      const start = job.start as TakeBackupStart;
      job.emit(happening.accepted(), happening.backedUp(start));
      await reaches(lab, operation.id, OperationState.OPERATION_STATE_SUCCEEDED);
      return start;
    };
    const first = await startOf();
    assert.equal(first.storedRatio, 0);
    assert.deepEqual(first.limits, { repositoryWaitSeconds: 600, timeoutMinutes: 60 });
    const second = await startOf({
      'nas.backup.repository.stalled': 'fail',
      'nas.backup.timeout.minutes': '5',
    });
    assert.equal(second.storedRatio, 0.4);
    assert.deepEqual(second.limits, { repositoryWaitSeconds: 0, timeoutMinutes: 5 });
    // A plain backup says nothing of a compressed one.
    assert.equal((await startOf({ 'nas.backup.compression.enabled': 'true' })).storedRatio, 0);
  });

  it('resolves settings and tells the agent and the caller', async () => {
    const { zones } = lab.clients;
    await ask(zones.setSettings.bind(zones), {
      zone: 'z1',
      values: { 'nas.backup.compression.enabled': 'true', 'nas.backup.bandwidth.limit.mbps': '7' },
      clear: [],
    });
    const operation = await takeBackup(lab, {
      settings: { 'nas.backup.bandwidth.limit.mbps': '9', 'nas.backup.quiesce': 'best-effort' },
    });
    const { options } = (await jobOf(agent, operation.id)).start as TakeBackupStart;
    assert.deepEqual(options, {
      compression: 'zstd',
      bandwidthLimitMibps: 9n,
      integrityCheck: false,
      integrityLevel: 'metadata',
      digests: 'stored',
      quiesce: 'best-effort',
      allowPlaintext: false,
      transport: 'auto',
      bandwidthEnforce: 'fail',
      repositoryReservePercent: 1,
      bandwidthShareBytesPerSecond: 0n,
    });
    const scope = (key: string) => operation.settings.find((setting) => setting.key === key)?.scope;
    assert.equal(scope('nas.backup.bandwidth.limit.mbps'), SettingScope.SETTING_SCOPE_REQUEST);
    assert.equal(scope('nas.backup.compression.enabled'), SettingScope.SETTING_SCOPE_ZONE);
    assert.equal(scope('nas.backup.integrity.check'), SettingScope.SETTING_SCOPE_DEFAULT);
  });

  it('refuses restores that cannot be', async () => {
    const { id, backupId } = await takeBackup(lab);
    const job = await jobOf(agent, id);
    job.emit(happening.accepted(), happening.backedUp(job.start as TakeBackupStart));
    await reaches(lab, id, OperationState.OPERATION_STATE_SUCCEEDED);
    const { zones, backups } = lab.clients;
    await ask(zones.createZone.bind(zones), { name: 'z2' });
    await addHost('h2', 'z2');
    const request = {
      backupId,
      host: 'h1',
      directory: '/restored',
      format: 0,
      disks: [] as string[],
      domainName: '',
      bandwidthLimitMibps: 0n,
      passphrase: '',
      requestId: '',
      rbd: undefined,
    } as const;
    const restore = (overrides: object) =>
      ask(backups.restoreBackup.bind(backups), { ...request, ...overrides });
    await refused(restore({ backupId: 'nothing' }), 'BACKUP_NOT_FOUND');
    await refused(restore({ host: '' }), 'INVALID_REQUEST');
    await refused(restore({ host: 'h2' }), 'ZONE_MISMATCH');
    await refused(restore({ directory: 'here' }), 'INVALID_REQUEST');
    await refused(restore({ disks: ['vda', 'vdz'] }), 'DISK_NOT_FOUND');
    await refused(restore({ bandwidthLimitMibps: -1n }), 'INVALID_REQUEST');
    await refused(restore({ bandwidthLimitMibps: 1n << 40n }), 'INVALID_REQUEST');
    await refused(restore({ format: 9 }), 'INVALID_REQUEST');
    for (const domainName of ['a/b', 'a\nb', '  ']) await refused(restore({ domainName }), 'INVALID_REQUEST');
    const rbd = RbdTarget.fromPartial({ pool: 'vms' });
    await refused(restore({ rbd: { ...rbd, pool: 'a/b' } }), 'INVALID_REQUEST');
    // Without a directory there is no place for the domain XML.
    await refused(restore({ rbd, directory: '' }), 'INVALID_REQUEST');
    const toRbd = await restore({ rbd, directory: '', disks: ['vda'] });
    const { start: rbdStart } = await jobOf(agent, toRbd.operation?.id ?? '');
    assert.ok('rbd' in rbdStart);
    assert.deepEqual([rbdStart.directory, rbdStart.rbd], ['', rbd]);
    const { operation } = await restore({ disks: ['vda', 'vda'], domainName: 'vm two' });
    const { start } = await jobOf(agent, operation?.id ?? '');
    assert.ok('directory' in start);
    assert.deepEqual([start.directory, start.disks, start.domainName], ['/restored', ['vda'], 'vm two']);
    assert.equal(start.backup?.manifestSha256, 'ab'.repeat(32));
  });
});
