import assert from 'node:assert/strict';
import { mkdir, readdir, truncate } from 'node:fs/promises';
import path from 'node:path';
import { execa } from 'execa';
import { AddRepositoryRequest, RepositoryType } from '@holdfast/proto/holdfast/v1/repository.ts';
import { useHoldfast } from '../harness/fixture.ts';
import { failed } from '../harness/follow.ts';
import { MiB } from '../lab/spec.ts';

describe('publishing', () => {
  const fixture = useHoldfast({
    guest: { disks: [{ target: 'vda', sizeBytes: 64 * MiB, content: { kind: 'random' } }], start: false },
  });

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
    await client.call(
      client.repositories.addRepository.bind(client.repositories),
      AddRepositoryRequest.fromPartial({
        zone: 'z1',
        name: 'lying',
        type: RepositoryType.REPOSITORY_TYPE_LOCAL,
        path: lying,
      }),
    );
    const error = failed(await client.takeBackup({ zone: 'z1', domain: guest.name, repository: 'lying' }));
    assert.ok(
      ['REPOSITORY_FAILED', 'REPOSITORY_FULL'].includes(error.reason),
      `${error.reason}: ${error.message}`,
    );
    const found = await readdir(lying, { recursive: true });
    assert.deepEqual(
      found.filter((name) => name.endsWith('manifest.json')),
      [],
    );
  });
});
