import assert from 'node:assert/strict';
import { RepositoryType } from '@holdfast/proto/holdfast/v1/repository.ts';
import { UsageError } from './arguments.ts';
import { repositoryOf } from './repository.ts';

describe('repositoryOf', () => {
  it('takes an NFS export with its options', () => {
    const mountOptions = 'vers=4.1, nconnect=4';
    const { type, address, ...rest } = repositoryOf({
      type: 'nfs',
      address: 'nas:/export//vm/',
      mountOptions,
    });
    assert.deepEqual([type, address], [RepositoryType.REPOSITORY_TYPE_NFS, 'nas:/export/vm']);
    assert.deepEqual(rest.mountOptions, ['vers=4.1', 'nconnect=4']);
    assert.deepEqual([rest.path, rest.credentials], ['', undefined]);
  });

  it('takes user, password and domain out of the options of a share, backslashes in its address too', () => {
    const mountOptions = 'vers=3.0,username=backup,password=p=w d,domain=WORK';
    const repository = repositoryOf({ type: 'cifs', address: '\\\\nas\\vm', mountOptions });
    assert.equal(repository.address, '//nas/vm');
    assert.deepEqual(repository.mountOptions, ['vers=3.0']);
    assert.deepEqual(repository.credentials, { username: 'backup', password: 'p=w d', domain: 'WORK' });
  });

  it('takes the client and its key out of the options of a CephFS', () => {
    const key = 'AQBvdG9wIHNlY3JldCBrZXkgb2YgYSBjbGllbnQ=';
    const mountOptions = `name=backup,secret=${key}`;
    const repository = repositoryOf({ type: 'ceph', address: '10.0.0.1:6789,10.0.0.2:/vm', mountOptions });
    assert.deepEqual(repository.mountOptions, []);
    assert.deepEqual(repository.credentials, { username: 'backup', password: key, domain: '' });
  });

  it('refuses what the agent would refuse, without a word of the password', () => {
    for (const [type, address, mountOptions] of [
      ['nfs', 'no-colon', ''],
      ['nfs', 'nas:/export', 'ro'],
      ['cifs', '//nas', ''],
      ['cifs', '//nas/vm', 'username=u,password=hush,exec'],
      ['ceph', 'mon:/', 'name=backup,secret=hush'],
      ['local', 'relative', ''],
    ] as const) {
      assert.throws(
        () => repositoryOf({ type, address, mountOptions }),
        (error) => error instanceof UsageError && !error.message.includes('hush'),
      );
    }
  });
});
