import assert from 'node:assert/strict';
import { mkdir, readdir, truncate } from 'node:fs/promises';
import path from 'node:path';
import { execa } from 'execa';
import { RepositoryType } from '@holdfast/proto/holdfast/v1/repository.ts';
import { OperationState } from '@holdfast/proto/holdfast/v1/operation.ts';
import { useHoldfast } from '../harness/fixture.ts';
import { failed, succeeded } from '../harness/follow.ts';
import { killNaming } from '../harness/leftovers.ts';
import { until } from '../lab/deadline.ts';
import { MiB } from '../lab/spec.ts';

const settings = {
  'nas.backup.compression.enabled': 'true',
  'nas.backup.encryption.enabled': 'true',
  'nas.backup.encryption.passphrase': 'correct horse battery staple',
};

describe('publishing', () => {
  const fixture = useHoldfast({
    guest: { disks: [{ target: 'vda', sizeBytes: 64 * MiB, content: { kind: 'random' } }], start: false },
  });

  /** The folders of backups, those that are not finished included. */
  const folders = async (repository: string): Promise<string[]> => {
    const all = await readdir(repository, { recursive: true, withFileTypes: true });
    return all
      .filter((entry) => entry.isDirectory() && /Z-[0-9a-f-]{36}/.test(entry.name))
      .map(({ name }) => name);
  };

  // In the order in which they appear; the last one is the folder under its final name.
  const steps: [string, RegExp][] = [
    ['the image', /\/vda\.qcow2\.luks$/],
    ['the domain XML', /\/domain\.xml\.age$/],
    ['the wrapped key', /\/key\.age$/],
    ['the MAC', /\/manifest\.hmac$/],
    ['the manifest', /\/manifest\.json$/],
    ['the folder under its name', /Z-[0-9a-f-]{36}$/],
  ];
  for (const [what, pattern] of steps) {
    it(`is whole or not at all when everything is killed as ${what} appears`, async () => {
      const { guest, holdfast } = fixture;
      const { client, agent } = holdfast;
      const repository = holdfast.repository();
      const before = await folders(repository);
      const { id } = await client.startBackup({ zone: 'z1', domain: guest.name, settings });
      await until(`${what} appears`, 60_000, async () => {
        const names = await readdir(repository, { recursive: true }).catch(() => []);
        return names.some((name) => pattern.test(name) && !before.some((old) => name.includes(old)));
      });
      // The agent, the runner, its helpers and QEMU: all name the directories of this installation.
      await agent.kill();
      for (const text of [agent.stateDirectory, agent.runtimeDirectory, repository]) await killNaming(text);
      await agent.start();
      const { operation } = await client.follow(id);
      const made = (await folders(repository)).filter((name) => !before.includes(name));
      if (operation.state === OperationState.OPERATION_STATE_SUCCEEDED) {
        assert.deepEqual(made.length, 1, made.join());
        succeeded(await client.verifyBackup({ backupId: operation.backupId }));
      } else {
        assert.equal(failed({ operation, events: [] }).reason, 'RUNNER_DIED');
        assert.deepEqual(made, []);
      }
      // The lock on the domain is gone too.
      succeeded(await client.takeBackup({ zone: 'z1', domain: guest.name }));
    });
  }

  it('does not happen when the repository loses what was written to it', async () => {
    const { guest, holdfast } = fixture;
    const { client, directory } = holdfast;
    // An ext4 that believes to have 160 MiB, on a disk that has 30: writes succeed, flushing them fails.
    const tiny = path.join(directory, 'tiny');
    const lying = path.join(directory, 'lying');
    await mkdir(tiny);
    await mkdir(lying);
    await using mounts = new AsyncDisposableStack();
    await execa('mount', ['-t', 'tmpfs', '-o', 'size=30M', 'tmpfs', tiny]);
    mounts.defer(async () => {
      await execa('umount', ['--lazy', tiny]);
    });
    const disk = path.join(tiny, 'disk');
    await execa('truncate', ['-s', '0', disk]);
    await truncate(disk, 160 * MiB);
    await execa('mke2fs', ['-q', '-t', 'ext4', '-E', 'nodiscard,lazy_itable_init=1', disk]);
    await execa('mount', ['-o', 'loop,noinit_itable', disk, lying]);
    mounts.defer(async () => {
      await execa('umount', ['--lazy', lying]);
    });
    await client.call(client.repositories.addRepository.bind(client.repositories), {
      zone: 'z1',
      name: 'lying',
      type: RepositoryType.REPOSITORY_TYPE_LOCAL,
      path: lying,
    });
    const error = failed(await client.takeBackup({ zone: 'z1', domain: guest.name, repository: 'lying' }));
    assert.ok(
      ['REPOSITORY_FAILED', 'REPOSITORY_FULL'].includes(error.reason),
      `${error.reason}: ${error.message}`,
    );
    const published = (await folders(lying)).filter((name) => !name.endsWith('.partial'));
    assert.deepEqual(published, []);
  });
});
