import assert from 'node:assert/strict';
import { RepositoryType } from '@holdfast/proto/holdfast/v1/repository.ts';
import { checkMountOptions } from './mountOptions.ts';

const NFS = RepositoryType.REPOSITORY_TYPE_NFS;
const CIFS = RepositoryType.REPOSITORY_TYPE_CIFS;
const CEPH = RepositoryType.REPOSITORY_TYPE_CEPH;

describe('mount options', () => {
  it('that are known to be harmless are taken as they are', () => {
    for (const [type, options] of [
      [NFS, ['vers=4.1', 'nconnect=8', 'soft', 'timeo=150', 'sec=krb5p', 'noatime']],
      [CIFS, ['vers=3.1.1', 'seal', 'cache=none', 'rsize=1048576']],
      [CEPH, ['fs=my.fs_1', 'ms_mode=secure', 'mount_timeout=5']],
      [NFS, []],
    ] as const) {
      assert.deepEqual(checkMountOptions(type, options), options);
    }
  });

  it('that are anything else are refused, one by one', () => {
    for (const [type, options] of [
      ...[
        'ro',
        'exec',
        'suid',
        'dev',
        'remount',
        'bind',
        'bg',
        'retry=3',
        'fsc',
        'user',
        'x-systemd.automount',
      ].map((option) => [NFS, [option]] as const),
      ...[
        'password=x',
        'pass=x',
        'credentials=/etc/shadow',
        'username=x',
        'guest',
        'uid=1000',
        'vers=1.0',
        'setuids',
      ].map((option) => [CIFS, [option]] as const),
      ...['secret=x', 'secretfile=/etc/shadow', 'name=admin', 'noshare', 'fs=a,exec', 'conf=/x'].map(
        (option) => [CEPH, [option]] as const,
      ),
      [NFS, ['seal']],
      [CIFS, ['nconnect=4']],
      [NFS, ['']],
      [NFS, ['=']],
      [NFS, ['hard=1']],
      [NFS, ['timeo']],
      [NFS, ['timeo=']],
      [NFS, ['timeo=1,exec']],
      [NFS, ['timeo=-1']],
      [NFS, ['noatime,exec']],
      [NFS, [' noatime']],
      [NFS, ['NOATIME']],
      [NFS, ['noatime\n']],
      [NFS, ['vers=4.2', 'vers=3']],
      [NFS, ['toString']],
      [NFS, ['__proto__']],
      [NFS, ['constructor=1']],
    ] as const) {
      assert.throws(() => checkMountOptions(type, options), { reason: 'INVALID_REQUEST' }, options.join(';'));
    }
  });

  it('say why, for those that people do give', () => {
    assert.throws(() => checkMountOptions(NFS, ['ro']), { message: /written to/ });
    assert.throws(() => checkMountOptions(CIFS, ['password=x']), { message: /fields of their own/ });
    assert.throws(() => checkMountOptions(NFS, ['exec']), { message: /nothing on a repository is run/ });
  });
});
