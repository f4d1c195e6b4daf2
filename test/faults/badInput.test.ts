import assert from 'node:assert/strict';
import { appendFile, mkdir, readdir, rm, truncate } from 'node:fs/promises';
import path from 'node:path';
import { HoldfastError } from '@holdfast/common/errors.ts';
import type { Reason } from '@holdfast/common/reasons.ts';
import type { TakeBackupRequest } from '@holdfast/proto/holdfast/v1/backup.ts';
import { AddRepositoryRequest, RepositoryType } from '@holdfast/proto/holdfast/v1/repository.ts';
import { useHoldfast } from '../harness/fixture.ts';
import { failed, succeeded, type Followed } from '../harness/follow.ts';
import { processesNaming } from '../harness/leftovers.ts';
import { MiB } from '../lab/spec.ts';

/** Spaces, quotes, commas and letters beyond ASCII in every name that a user can choose. */
const HOSTILE = `o'dd "dömäin", <&> ..`;
const PASSPHRASE = 'correct horse battery staple';
const encryption = {
  'nas.backup.encryption.enabled': 'true',
  'nas.backup.encryption.passphrase': PASSPHRASE,
};

describe('bad input', () => {
  const fixture = useHoldfast({
    guest: {
      name: HOSTILE,
      disks: [
        {
          target: 'vda',
          sizeBytes: 16 * MiB,
          content: { kind: 'random' },
          fileName: `im'age, "ö" one.qcow2`,
        },
      ],
      start: false,
    },
  });

  /** One clear error, and nothing left of the attempt. */
  const refused = async (reason: Reason, attempt: () => Promise<Followed>): Promise<void> => {
    const before = await entries();
    const error = await attempt().then(failed, (thrown: unknown) => thrown);
    assert.ok(error instanceof HoldfastError, String(error));
    assert.equal(error.reason, reason, error.message);
    assert.deepEqual(await entries(), before);
    assert.deepEqual(await processesNaming(fixture.holdfast.agent.runtimeDirectory + '/jobs'), []);
  };
  const entries = async (): Promise<string[]> => {
    const { agent, repository } = fixture.holdfast;
    const found = await Promise.all(
      [repository(), agent.scratchDirectory, agent.runtimeDirectory].map((directory) =>
        readdir(directory, { recursive: true }),
      ),
    );
    return found.flat().sort();
  };
  const backup = (request: Partial<TakeBackupRequest>): Promise<Followed> =>
    fixture.holdfast.client.takeBackup({ zone: 'z1', domain: HOSTILE, repository: 'nas-z1', ...request });
  const published = async (
    settings: Record<string, string> = {},
  ): Promise<{ id: string; folder: string }> => {
    const operation = succeeded(await backup({ settings }));
    const result = operation.result?.result;
    assert.equal(result?.$case, 'backup');
    return { id: operation.backupId, folder: path.join(fixture.holdfast.repository(), result.value.path) };
  };

  const requests: [string, Reason, Partial<TakeBackupRequest>][] = [
    ['an unknown domain', 'DOMAIN_NOT_FOUND', { domain: 'no such' }],
    ['an unknown zone', 'ZONE_NOT_FOUND', { zone: 'no-such' }],
    ['an unknown host', 'HOST_NOT_FOUND', { host: 'no-such' }],
    ['an unknown repository', 'REPOSITORY_NOT_FOUND', { repository: 'no-such' }],
    ['a domain with a newline', 'DOMAIN_NOT_FOUND', { domain: `${HOSTILE}\n` }],
    ['a domain that looks like an option', 'DOMAIN_NOT_FOUND', { domain: '--all' }],
    ['a zone with a newline', 'ZONE_NOT_FOUND', { zone: 'z1\n' }],
    ['a host that looks like a path', 'HOST_NOT_FOUND', { host: '../host-1' }],
    ['a repository with a newline', 'REPOSITORY_NOT_FOUND', { repository: 'nas-z1\n' }],
    ['an unknown setting', 'SETTING_UNKNOWN', { settings: { 'nas.backup.nonsense': 'true' } }],
    ['a negative bandwidth', 'SETTING_INVALID', { settings: { 'nas.backup.bandwidth.limit.mbps': '-1' } }],
    [
      'an absurd bandwidth',
      'SETTING_INVALID',
      { settings: { 'nas.backup.bandwidth.limit.mbps': '9999999999' } },
    ],
    [
      'encryption without passphrase',
      'PASSPHRASE_MISSING',
      { settings: { 'nas.backup.encryption.enabled': 'true' } },
    ],
  ];
  for (const [what, reason, request] of requests) {
    it(`${what} is ${reason}`, () => refused(reason, () => backup(request)));
  }

  it('a hostile name is no bad input: it is backed up and restored', async () => {
    const { client, restoreDirectory, agent } = fixture.holdfast;
    const { id } = await published(encryption);
    const directory = await restoreDirectory();
    succeeded(await client.restoreBackup({ backupId: id, host: agent.hostName, directory }));
    assert.equal((await readdir(directory)).length, 2);
  });

  it('repository paths that are not there, are a file, or leave their root', async () => {
    const { client, directory } = fixture.holdfast;
    const add = (name: string, at: string): Promise<unknown> =>
      client.call(
        client.repositories.addRepository.bind(client.repositories),
        AddRepositoryRequest.fromPartial({
          zone: 'z1',
          name,
          type: RepositoryType.REPOSITORY_TYPE_LOCAL,
          path: at,
        }),
      );
    const file = path.join(directory, 'a file');
    await appendFile(file, 'x');
    for (const [at, reason] of [
      [path.join(directory, 'not there'), 'REPOSITORY_UNUSABLE'],
      [file, 'REPOSITORY_UNUSABLE'],
      ['relative/path', 'INVALID_REQUEST'],
    ] as const) {
      await assert.rejects(add('bad', at), (error: HoldfastError) => error.reason === reason, at);
    }
    const odd = path.join(directory, `näs, "one"\no'two ..`);
    await mkdir(odd);
    await add('odd', odd);
    succeeded(await backup({ repository: 'odd', settings: encryption }));
    succeeded(await backup({ repository: 'odd' }));
  });

  it('a repository that has gone since it was added', async () => {
    const { client, directory } = fixture.holdfast;
    const gone = path.join(directory, 'gone');
    await mkdir(gone);
    await client.call(
      client.repositories.addRepository.bind(client.repositories),
      AddRepositoryRequest.fromPartial({
        zone: 'z1',
        name: 'gone',
        type: RepositoryType.REPOSITORY_TYPE_LOCAL,
        path: gone,
      }),
    );
    await rm(gone, { recursive: true });
    await refused('REPOSITORY_UNUSABLE', () => backup({ repository: 'gone' }));
  });

  it('a wrong passphrase at verify and restore', async () => {
    const { client, restoreDirectory, agent } = fixture.holdfast;
    const { id: backupId } = await published(encryption);
    const directory = await restoreDirectory();
    await refused('KEY_WRONG', () => client.verifyBackup({ backupId, passphrase: 'wrong' }));
    const request = { backupId, host: agent.hostName, directory };
    await refused('KEY_WRONG', () => client.restoreBackup({ ...request, passphrase: 'wrong' }));
    succeeded(await client.verifyBackup({ backupId, passphrase: PASSPHRASE }));
  });

  it('an unknown backup, disk and directory at restore', async () => {
    const { client, restoreDirectory, agent } = fixture.holdfast;
    const { id: backupId } = await published();
    const host = agent.hostName;
    const directory = await restoreDirectory();
    await refused('BACKUP_NOT_FOUND', () => client.verifyBackup({ backupId: agent.hostName }));
    await refused('DISK_NOT_FOUND', () =>
      client.restoreBackup({ backupId, host, directory, disks: ['vdz'] }),
    );
    await refused('INVALID_REQUEST', () =>
      client.restoreBackup({ backupId, host, directory, bandwidthLimitMibps: -1n }),
    );
    await refused('DIRECTORY_UNUSABLE', () =>
      client.restoreBackup({ backupId, host, directory: path.join(directory, 'no') }),
    );
    assert.deepEqual(await readdir(directory), []);
  });

  const damages: [string, (folder: string) => Promise<void>][] = [
    ['a truncated manifest', (folder) => truncate(path.join(folder, 'manifest.json'), 100)],
    ['an edited manifest', (folder) => appendFile(path.join(folder, 'manifest.json'), ' ')],
    ['a truncated image', (folder) => truncate(path.join(folder, 'vda.qcow2'), 1_000_000)],
    ['a missing image', (folder) => rm(path.join(folder, 'vda.qcow2'))],
  ];
  for (const [what, damage] of damages) {
    it(`${what} is BACKUP_DAMAGED at verify and at restore`, async () => {
      const { client, restoreDirectory, agent } = fixture.holdfast;
      const { id: backupId, folder } = await published();
      await damage(folder);
      const directory = await restoreDirectory();
      await refused('BACKUP_DAMAGED', () => client.verifyBackup({ backupId }));
      await refused('BACKUP_DAMAGED', () =>
        client.restoreBackup({ backupId, host: agent.hostName, directory }),
      );
      assert.deepEqual(await readdir(directory), []);
      assert.equal((await client.getBackup(backupId)).lastVerification?.intact, false);
    });
  }
});
