import assert from 'node:assert/strict';
import { readdir } from 'node:fs/promises';
import path from 'node:path';
import { succeeded } from '../harness/follow.ts';
import { useNas } from './support/nas.ts';

/** One boot for all of it: an emulated host takes its time. More of it is in test/e2e-long/nas.test.ts. */
describe('repositories on real NFS and CIFS servers', () => {
  const nas = useNas();

  it('what cannot be used is refused before anything is touched', async () => {
    const { cifs, nfs, refused, samba } = nas;
    const password = `${samba.password}?`;
    const wrong = { ...cifs('//10.0.2.2/backups'), credentials: { username: 'nas', password, domain: '' } };
    await refused(nfs('/nowhere'), 'MOUNT_FAILED', /No such file/i);
    await refused(nfs('/readonly'), 'REPOSITORY_UNUSABLE', /read-only|cannot be written/i);
    await refused({ ...nfs('/backups'), mountOptions: ['exec'] }, 'INVALID_REQUEST', /exec/);
    await refused(wrong, 'MOUNT_FAILED', /Permission denied/i);
  });

  it('stopped domains are backed up, verified and restored, over NFS and over CIFS', async () => {
    const { backup, ganesha, host, mounts, nothingLeft, passwordIsHidden, proveWhole, samba } = nas;
    const toNfs = async (): Promise<void> => {
      const checked = { 'nas.backup.integrity.check': 'true' };
      const followed = await backup('nfs', 'one', checked, async () => {
        assert.match(await mounts(), / nfs4 rw,nosuid,nodev,noexec,.*vers=4\.2,.*hard/);
      });
      await proveWhole(ganesha, 'one', succeeded(followed));
    };
    const toCifs = async (): Promise<void> => {
      const followed = await backup('cifs', 'two', {}, passwordIsHidden);
      await proveWhole(samba, 'two', succeeded(followed));
    };
    await toNfs();
    await toCifs();
    assert.ok(!(await host.logs()).includes(samba.password));
    await nothingLeft();
  });

  it('a NAS with another file system than last time is refused', async () => {
    const { ganesha, nothingLeft, space } = nas;
    await ganesha.replaceFiles();
    await assert.rejects(space('nfs'), { reason: 'REPOSITORY_MISMATCH' });
    assert.deepEqual(await readdir(path.join(ganesha.files, 'backups')), []);
    await nothingLeft();
  });
});
